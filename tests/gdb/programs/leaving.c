#include <stdio.h>
void last_words(void *object) { printf("bye %p\n", object); }
