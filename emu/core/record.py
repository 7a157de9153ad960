"""Named tuples whose classes are made quickly.

`typing.NamedTuple` compiles each annotation and writes each class a constructor: 0.25 ms a class, a quarter
of all that importing emu costs. Here annotations stay text, and the constructor is written when the class is
first called. For the type checker it is `typing.NamedTuple`, and it does the same but for what nobody uses
here: no check that the names of fields are good ones.
Source: Python's documentation of collections.namedtuple and typing.NamedTuple.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import NamedTuple as NamedTuple
else:
    from _collections import _tuplegetter
    from typing import Generic

    _VALUES = 1
    """annotationlib.Format.VALUE, without importing that."""

    class _Record(tuple):
        """What all records can do."""

        __slots__ = ()
        _fields = ()
        _field_defaults = {}

        @classmethod
        def _make(cls, values):
            """Return a record of the values, in the order of the fields. Raises TypeError if there are more
            or fewer.
            """
            made = tuple.__new__(cls, values)
            if len(made) != len(cls._fields):
                raise TypeError(f"{cls.__name__} has {len(cls._fields)} fields, not {len(made)}")
            return made

        def _replace(self, /, **values):
            """Return a record that is equal but for these fields. Raises ValueError if one is no field."""
            made = self._make(map(values.pop, self._fields, self))
            if values:
                raise ValueError(f"{type(self).__name__} has no fields {list(values)}")
            return made

        def _asdict(self):
            """Return the fields by name."""
            return dict(zip(self._fields, self, strict=True))

        def __repr__(self):
            fields = ", ".join(f"{name}={value!r}" for name, value in zip(self._fields, self, strict=True))
            return f"{type(self).__name__}({fields})"

        def __getnewargs__(self):
            return tuple(self)

    def _constructor(name, fields, defaults):
        """Return what a class of that name has for `__new__`. Its text has nothing but names of fields."""
        values = "".join(f"{field}, " for field in fields)
        construct = eval(f"lambda _cls, {values}: _new(_cls, ({values}))", {"_new": tuple.__new__})
        construct.__defaults__ = defaults
        construct.__name__ = "__new__"
        construct.__qualname__ = f"{name}.__new__"
        return construct

    def _annotations(body):
        """Return the annotations in the body of a class, which from Python 3.14 on a function makes
        where they are no text.
        """
        annotate = body.get("__annotate_func__")
        return annotate(_VALUES) if annotate else body.get("__annotations__", ())

    class _Kind(type):
        """Makes records of the bodies of classes; a record's own class is a plain `type`."""

        def __new__(mcs, name, bases, body):
            if name == "NamedTuple":
                return super().__new__(mcs, name, bases, body)
            fields = tuple(_annotations(body))
            defaults = {field: body[field] for field in fields if field in body}

            def construct(cls, /, *values, **named):
                made.__new__ = staticmethod(_constructor(name, fields, tuple(defaults.values())))
                return made.__new__(cls, *values, **named)

            body.update({field: _tuplegetter(index, "") for index, field in enumerate(fields)})
            body |= {"_fields": fields, "_field_defaults": defaults, "__match_args__": fields}
            body |= {"__slots__": (), "__new__": construct}
            made = type(name, (_Record, *(base for base in bases if base is Generic)), body)
            return made

    class NamedTuple(metaclass=_Kind):
        """The base of a record: `class Point(NamedTuple): x: int`. Defaults come last."""
