// Two threads count in a block that main has allocated: nothing orders them, unless FIXED.
#include <pthread.h>

#include <cstdio>

struct Counter {
    long padding;
    int count;
    pthread_mutex_t lock;
};

static void *bump(void *given) {
    Counter *counter = static_cast<Counter *>(given);
#ifdef FIXED
    pthread_mutex_lock(&counter->lock);
#endif
    ++counter->count;
#ifdef FIXED
    pthread_mutex_unlock(&counter->lock);
#endif
    return nullptr;
}

int main() {
    Counter *counter = new Counter{0, 0, PTHREAD_MUTEX_INITIALIZER};
    pthread_t one, two;
    pthread_create(&one, nullptr, bump, counter);
    pthread_create(&two, nullptr, bump, counter);
    pthread_join(one, nullptr);
    pthread_join(two, nullptr);
    std::printf("%d\n", counter->count);
    delete counter;
}
