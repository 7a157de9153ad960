#include <stdio.h>
int value = 7;
int twice(int x) { return 2 * x * value; }
