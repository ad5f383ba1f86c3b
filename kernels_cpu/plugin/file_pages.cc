#include "plugin/file_pages.h"

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>

#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <mutex>

namespace ei {
namespace {

struct Mapping {
    uintptr_t begin, end;
    bool of_file;  // shared, and with a file behind it
};

// What /proc/self/maps says of the mapping that holds `address`; lines are "begin-end rwxs offset device inode path".
Mapping find_mapping(uintptr_t address) {
    Mapping found{0, 0, false};
    std::FILE *const maps = std::fopen("/proc/self/maps", "re");
    if (maps == nullptr) return found;
    char line[512];
    bool whole = true;  // the line before ended: a long path is read in pieces
    while (std::fgets(line, sizeof line, maps) != nullptr) {
        const bool begins = whole;
        size_t n = 0;
        while (line[n] != '\0') ++n;
        whole = n > 0 && line[n - 1] == '\n';
        uintptr_t begin, end;
        unsigned long inode;
        char flags[5];
        if (!begins || std::sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %4s %*s %*s %lu", &begin, &end, flags, &inode) != 4) continue;
        if (begin <= address && address < end) {
            found = {begin, end, flags[3] == 's' && inode != 0};
            break;
        }
    }
    std::fclose(maps);
    return found;
}

}  // namespace

void give_back_file_pages(const void *data, size_t n_bytes) {
    const uintptr_t first = reinterpret_cast<uintptr_t>(data), last = first + n_bytes, page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    // Looked up for each tensor: what lay there a moment ago may be memory of another kind now, and dropping that would lose it.
    const Mapping mapping = find_mapping(first);
    if (!mapping.of_file || last > mapping.end) return;
    const uintptr_t begin = (first + page - 1) / page * page, end = last / page * page;
    if (begin < end) madvise(reinterpret_cast<void *>(begin), end - begin, MADV_DONTNEED);
}

void read_file_plainly(const void *data) {
    const Mapping mapping = find_mapping(reinterpret_cast<uintptr_t>(data));
    if (mapping.of_file) madvise(reinterpret_cast<void *>(mapping.begin), mapping.end - mapping.begin, MADV_NORMAL);
}

}  // namespace ei

#else

namespace ei {

void give_back_file_pages(const void *, size_t) {}
void read_file_plainly(const void *) {}

}  // namespace ei
#endif
