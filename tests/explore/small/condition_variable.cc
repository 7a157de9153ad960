// A notification that comes before the wait is lost, unless the wait has a predicate.
#include <condition_variable>
#include <mutex>
#include <thread>
static std::mutex m;
static std::condition_variable c;
static bool ready;
int main() {
    std::thread thread([] {
        std::unique_lock<std::mutex> lock(m);
#ifdef FIXED
        c.wait(lock, [] { return ready; });
#else
        c.wait(lock);
#endif
    });
    {
        std::lock_guard<std::mutex> lock(m);
        ready = true;
    }
    c.notify_one();
    thread.join();
}
