// A future that is looked at instead of waited for.
#include <chrono>
#include <future>
#include <thread>
#include <unistd.h>
int main() {
    std::promise<int> promise;
    std::future<int> future = promise.get_future();
    std::thread thread([&] { promise.set_value(7); });
#ifndef FIXED
    if (future.wait_for(std::chrono::seconds(0)) != std::future_status::ready) _exit(3);
#endif
    if (future.get() != 7) _exit(4);
    thread.join();
}
