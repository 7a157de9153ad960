#include <stdio.h>
int answer = 41;
__attribute__((constructor)) static void up(void) { answer++; }
int ask(int n) { return answer + n; }
