#include <sys/wait.h>
#include <unistd.h>

struct Counter {
    int value = 1;
    ~Counter() { value = 0; }
};
thread_local Counter counter;
extern "C" int touch() { return counter.value; }
extern "C" void crash() { *(volatile int *)8 = 1; }
extern "C" int child_crashes() {
    int status = 0;
    pid_t pid = fork();
    if (!pid) crash();
    waitpid(pid, &status, 0);
    return status;
}
