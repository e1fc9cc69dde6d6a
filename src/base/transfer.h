// Copies between host memory and the memory of a stream's device. Both tensors have one dtype and shape; rows may be
// strided. On the CPU these are plain copies, so that code for any device calls them where data changes sides.
#pragma once
#include "base/stream.h"
#include "base/tensor.h"

namespace sluice {

/// `device` = `host`, which may be changed when the call returns.
void upload(Stream& s, const Tensor& device, const Tensor& host);

/// `host` = `device` after all ops queued so far; waits for them and throws as Stream::synchronize does.
void download(Stream& s, const Tensor& host, const Tensor& device);

}  // namespace sluice
