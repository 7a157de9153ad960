__thread int a __attribute__((tls_model("initial-exec"))) = 3;
int f(int x) { return a += x; }
