// races: a flag made by hand in place of a static variable's guard.
#include <thread>
struct Table {
    int size;
    Table() : size(7) {}
};
static int use() {
#ifdef FIXED
    static Table table;
    return table.size;
#else
    static bool made;
    static int size;
    if (!made) {
        size = 7;
        made = true;
    }
    return size;
#endif
}
int main() {
    std::thread one(use), two(use);
    one.join();
    two.join();
    return use() - 7;
}
