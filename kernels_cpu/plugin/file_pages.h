// The file that weights come from: giving back what was read of it.
#ifndef EI_PLUGIN_FILE_PAGES_H
#define EI_PLUGIN_FILE_PAGES_H

#include <cstddef>

namespace ei {

// Where [data, data + n_bytes) is a shared mapping of a file, drop its whole pages from this process: the system keeps them in its cache and
// brings them back if they are touched again. Other memory is left alone. Does nothing on systems where it cannot tell.
void give_back_file_pages(const void *data, size_t n_bytes);

// The mapping of a file that `data` lies in shall be read as any other, whatever was advised before.
void read_file_plainly(const void *data);

}  // namespace ei
#endif
