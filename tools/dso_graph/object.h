/* What the driver and the objects of a graph know of each other. The generated assembly has the numbers of the
   events from here as well: see build.py. */
#ifndef OBJECT_H
#define OBJECT_H

enum event
{
  UP,       /* the constructor runs; the value is argv */
  DOWN,     /* the destructor runs */
  ENTER,    /* the object's function begins; the answer is 1 if it is running already */
  LEAVE,    /* the object's function ends */
  FOUND,    /* a reference was followed; the value is the name of the object that it led to, or null */
  TOUCH,    /* the thread_local object is touched; the value is its counter, or null */
  TLS_DTOR, /* the destructor of the thread_local object runs */
  AT_EXIT,  /* an exit handler of the object runs */
};

struct object
{
  const char *name;
  void (*call) (void);                                               /* its function, fn_NAME */
  void (*touch) (void);                                              /* touch its thread_local object */
  void (*tls_dtor) (void *self);
  void (*at_exit) (void *self);
  void *(*find) (void *(*lookup) (void *, const char *), const char *symbol); /* dlsym with this object as the caller */
  void *dso_handle;
  int active;
};

extern int graph_event (struct object *self, enum event what, const void *value);

#endif
