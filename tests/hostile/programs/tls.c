__thread int a = 3;
int f(int x) { return a += x; }
