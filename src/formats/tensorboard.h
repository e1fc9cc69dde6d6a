// TensorBoard event files: scalars over steps.
#pragma once
#include <cstdint>
#include <cstdio>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "base/file.h"

namespace sluice {

/// CRC-32C (Castagnoli) of `bytes`; "123456789" gives 0xE3069283.
uint32_t crc32c(std::string_view bytes);

/// Writes `events.out.tfevents.*` in a folder. Records are TFRecords (length, masked CRC-32C) of protobuf `Event`s,
/// "brain.Event:2". A run that resumes writes a new file beside the old ones.
class TensorboardWriter {
 public:
  /// Creates the folder if need be. `first_step` > 0: TensorBoard drops what earlier files of the folder say about that
  /// step and later ones. Throws Error.
  TensorboardWriter(const fs::path& folder, int64_t first_step);
  const fs::path& path() const { return path_; }
  /// Appends one event with all `scalars` (tag, value) of a step and flushes it, so that a killed run leaves whole
  /// records. Throws Error when the disk is full.
  void add_scalars(int64_t step, std::span<const std::pair<std::string, float>> scalars);

 private:
  struct Close {
    void operator()(std::FILE* f) const { std::fclose(f); }
  };
  void write_record(std::string_view event);

  fs::path path_;
  std::unique_ptr<std::FILE, Close> file_;
};

}  // namespace sluice
