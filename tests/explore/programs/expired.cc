// That a weak pointer has not expired says nothing of the next moment.
#include <atomic>
#include <memory>
#include <thread>
int main() {
    auto pointer = std::make_shared<int>(5);
    std::weak_ptr<int> weak = pointer;
    std::atomic<int> wrong{0};
    std::thread thread([&] {
#ifdef FIXED
        if (auto locked = weak.lock()) wrong += *locked != 5;
#else
        if (!weak.expired()) wrong += !weak.lock();
#endif
    });
    pointer.reset();
    thread.join();
    return wrong != 0;
}
