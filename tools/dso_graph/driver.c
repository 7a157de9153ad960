/* The program of every graph: it runs the scripts that it gets as arguments and prints what happens.

     main SCRIPT [HOOK SCRIPT]...

   A hook is "a", "~a", "@a" or "%a"; scripts are as in language.py. Each operation of the program's script has a line: the
   operation, what ran meanwhile, and after "|" the objects of the graph that are loaded, in order, each with the id
   of its TLS module if it has one. What a hook does stands in braces within the line. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <link.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "object.h"

extern int __cxa_thread_atexit_impl (void (*) (void *), void *, void *);
extern int __cxa_atexit (void (*) (void *), void *, void *);
extern void __cxa_finalize (void *);
extern struct object object_self __attribute__ ((visibility ("hidden")));

/* What is known of an object by its name. */
struct known
{
  char name[16];
  struct object *object; /* between its constructor and its destructor */
  void *handles[256];    /* of dlopen, the last one last */
  int open;
};

static struct known known[256];
static char **arguments;
static int begun;
static int hook_operations = 200; /* that may still run: a destructor that touches its own object again has no end */
static unsigned long long first_adds, first_subs;

static void
say (const char *text)
{
  size_t length = strlen (text);
  if (write (1, text, length) != (ssize_t) length)
    _exit (9);
}

static void
say_number (unsigned long long number)
{
  char text[24], *p = text + sizeof text;
  *--p = 0;
  do
    *--p = '0' + number % 10;
  while (number /= 10);
  say (p);
}

static void
line (const char *label)
{
  if (begun++)
    say ("\n");
  say (label);
}

static struct known *
look (const char *name, size_t length)
{
  struct known *k = known;
  while (k->name[0] && (strncmp (k->name, name, length) || k->name[length]))
    if (++k == known + sizeof known / sizeof *known)
      _exit (9);
  memcpy (k->name, name, length);
  return k;
}

/* The part of a path that names the object: "./a.so" is a, "" is the program; null for libc, ld.so and the vDSO. */
static const char *
base_name (const char *path, size_t *length)
{
  if (!*path || !strcmp (path, arguments[0]))
    path = "main.so";
  const char *slash = strrchr (path, '/');
  const char *base = slash ? slash + 1 : path;
  const char *suffix = strstr (base, ".so");
  *length = suffix ? suffix - base : 0;
  return suffix && !suffix[3] ? base : NULL;
}

static void
say_base_name (const char *path)
{
  size_t length;
  const char *base = base_name (path, &length);
  char name[64] = { 0 };
  if (!base || length >= sizeof name)
    say ("other");
  else
    say (memcpy (name, base, length));
}

static int
list_one (struct dl_phdr_info *info, size_t size, void *unused)
{
  size_t length;
  (void) size;
  (void) unused;
  if (base_name (info->dlpi_name, &length))
    {
      say (" ");
      say_base_name (info->dlpi_name);
      if (info->dlpi_tls_modid)
        {
          say ("#");
          say_number (info->dlpi_tls_modid);
        }
    }
  return 0;
}

static void
list (void)
{
  say (" |");
  dl_iterate_phdr (list_one, NULL);
}

static int
count (struct dl_phdr_info *info, size_t size, void *numbers)
{
  (void) size;
  ((unsigned long long *) numbers)[0] = info->dlpi_adds;
  ((unsigned long long *) numbers)[1] = info->dlpi_subs;
  return 1;
}

static void
failed (void)
{
  const char *message = dlerror ();
  say (" fail");
  if (message)
    {
      say (" (");
      say (message);
      say (")");
    }
}

static int
mode_of (const char *name, size_t length)
{
  static const struct
  {
    const char *name;
    int value;
  } modes[] = { { "lazy", RTLD_LAZY },         { "now", RTLD_NOW },       { "global", RTLD_GLOBAL },    { "local", RTLD_LOCAL },
                { "nodelete", RTLD_NODELETE }, { "noload", RTLD_NOLOAD }, { "deepbind", RTLD_DEEPBIND } };
  for (size_t i = 0; i < sizeof modes / sizeof *modes; ++i)
    if (!strncmp (modes[i].name, name, length) && !modes[i].name[length])
      return modes[i].value;
  _exit (9);
}

static void
open_object (struct known *k, const char *modes)
{
  char path[32];
  int mode = 0;
  while (*modes == '[' || *modes == ',')
    {
      size_t length = strcspn (++modes, ",]");
      mode |= mode_of (modes, length);
      modes += length;
    }
  if (!(mode & (RTLD_LAZY | RTLD_NOW)))
    mode |= RTLD_LAZY;
  void *handle = dlopen (strcmp (k->name, "main") ? strcat (strcpy (path, k->name), ".so") : NULL, mode);
  if (!handle)
    failed ();
  else if (k->open == sizeof k->handles / sizeof *k->handles)
    _exit (9);
  else
    k->handles[k->open++] = handle;
}

static void
perform (struct object *self, char mark, struct known *k, const char *modes)
{
  char symbol[32];
  strcat (strcpy (symbol, "fn_"), k->name);
  struct object *object = k->object;
  if (mark == '+')
    open_object (k, modes);
  else if (mark == '?')
    {
      Dl_info info;
      void *found = self->find (dlsym, symbol);
      say (" ");
      if (!found)
        {
          dlerror ();
          say ("none");
        }
      else if (!dladdr (found, &info))
        say ("nowhere");
      else
        say_base_name (info.dli_fname);
    }
  else if (mark == '-' && k->open)
    {
      if (dlclose (k->handles[--k->open]))
        failed ();
    }
  else if (mark == '%' && k->open)
    {
      void (*call) (void) = (void (*) (void)) dlsym (k->handles[k->open - 1], symbol);
      if (call)
        call ();
      else
        failed ();
    }
  else if (mark == '-' || !object)
    say (" none");
  else if (mark == '%')
    object->call ();
  else if (mark == '@')
    object->touch ();
  else if (__cxa_atexit (object->at_exit, object, object->dso_handle))
    say (" fail");
}

/* Run one script; one of a hook goes between braces. */
static void
run (struct object *self, const char *script, int hook)
{
  const char *separator = "{";
  while (*script && !(hook && hook_operations-- <= 0))
    {
      size_t whole = strcspn (script, ";"), length = strcspn (script + 1, "[;");
      char text[80] = { 0 };
      if (whole >= sizeof text)
        _exit (9);
      memcpy (text, script, whole);
      if (hook)
        {
          say (separator);
          say (text);
        }
      else
        line (text);
      say (":");
      perform (self, text[0], look (text + 1, length), text + 1 + length);
      list ();
      separator = "; ";
      script += whole + (script[whole] == ';');
    }
  if (hook)
    say (*script ? "...}" : "}");
}

static void
run_hook (struct object *self, const char *mark)
{
  for (char **a = arguments + 2; *a; a += 2)
    if (!strncmp (*a, mark, strlen (mark)) && !strcmp (*a + strlen (mark), self->name))
      run (self, a[1], 1);
}

int
graph_event (struct object *self, enum event what, const void *value)
{
  const char *before = " ", *after = "", *hook = NULL;
  struct known *k;
  if (what == UP && !arguments)
    arguments = (char **) value;
  if (!begun)
    line ("start:");
  k = look (self->name, strlen (self->name));
  switch (what)
    {
    case UP:
      k->object = self;
      after = ">";
      hook = "";
      break;
    case DOWN:
      before = " <";
      hook = "~";
      break;
    case ENTER:
      after = self->active ? "(...)" : "(";
      hook = self->active ? NULL : "%";
      break;
    case LEAVE:
      say (" )");
      self->active = 0;
      return 0;
    case FOUND:
      say (" ");
      say (value ? value : "null");
      return 0;
    case TOUCH:
      before = " @";
      break;
    case TLS_DTOR:
      before = " <@";
      hook = "@";
      break;
    case AT_EXIT:
      before = " <&";
      break;
    }
  say (before);
  say (self->name);
  say (after);
  if (what == TOUCH)
    {
      if (value)
        {
          say ("=");
          say_number (*(const int *) value);
        }
      __cxa_thread_atexit_impl (self->tls_dtor, self, self->dso_handle);
    }
  if (what == ENTER && self->active)
    return 1;
  if (what == ENTER)
    self->active = 1;
  if (hook)
    run_hook (self, hook);
  if (what == DOWN)
    {
      if (k->object == self)
        k->object = NULL;
      /* What crtbeginS.o does for an object that is linked with it; the program has that. */
      if (self != &object_self)
        __cxa_finalize (self->dso_handle);
    }
  return 0;
}

int
main (int argc, char **argv)
{
  unsigned long long numbers[2];
  if (argc < 2)
    return 9;
  dl_iterate_phdr (count, numbers);
  first_adds = numbers[0];
  first_subs = numbers[1];
  list ();
  run (&object_self, argv[1], 0);
  dl_iterate_phdr (count, numbers);
  line ("end (");
  say_number (numbers[0] - first_adds);
  say (" loaded, ");
  say_number (numbers[1] - first_subs);
  say (" unloaded):");
  return 0;
}
