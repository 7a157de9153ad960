/* The part that all objects of a graph share, compiled once: with -DTLS it has a TLS segment, with -DPROGRAM it is
   part of the program. Each object's own part is a few lines of generated assembly. */
#include "object.h"

#define HIDDEN __attribute__ ((visibility ("hidden")))

extern const char object_name[] HIDDEN;
extern void object_call (void) HIDDEN;
extern struct object object_self HIDDEN;

#ifdef PROGRAM
extern void *__dso_handle HIDDEN;
#else
void *__dso_handle HIDDEN = &__dso_handle;
#endif

#ifdef TLS
static __thread int counter = 40;
#endif

static void
touch (void)
{
#ifdef TLS
  ++counter;
  graph_event (&object_self, TOUCH, &counter);
#else
  graph_event (&object_self, TOUCH, 0);
#endif
}

static void
tls_dtor (void *self)
{
  graph_event (self, TLS_DTOR, 0);
}

static void
at_exit (void *self)
{
  graph_event (self, AT_EXIT, 0);
}

static void *
find (void *(*lookup) (void *, const char *), const char *symbol)
{
  void *found = lookup (0, symbol);
  /* No tail call: dlsym takes its caller from the return address. */
  __asm__ volatile ("" : "+r"(found));
  return found;
}

struct object object_self
    = { object_name, object_call, touch, tls_dtor, at_exit, find, &__dso_handle, 0 };

__attribute__ ((constructor)) static void
up (int argc, char **argv)
{
  (void) argc;
  graph_event (&object_self, UP, argv);
}

__attribute__ ((destructor)) static void
down (void)
{
  graph_event (&object_self, DOWN, 0);
}
