#include <pthread.h>
#include <stdlib.h>
static pthread_key_t key;
static void gone(void *p) { free(p); }
__attribute__((destructor)) static void down(void) { pthread_key_delete(key); }
__attribute__((constructor)) static void up(void) { pthread_key_create(&key, gone); }
void use(void) { pthread_setspecific(key, malloc(8)); }
