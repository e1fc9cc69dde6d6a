// How fast a file can be read, past the page cache.
#pragma once
#include <cstdint>
#include <optional>

#include "base/file.h"

namespace sluice {

/// Bytes per second of large reads by `readers` threads, over the file or a few seconds of it.
double disk_rate(const fs::path& file, int readers);

/// Bytes that this process has had read from disks (/proc/self/io); none where the system does not say.
std::optional<double> process_bytes_read();

}  // namespace sluice
