#include "base/cuda/runtime.h"

#include "base/cuda/queue.h"
#include "base/device.h"

namespace sluice::cuda {
namespace {

/// The kernels are machine code for compute capability 9.0 alone.
constexpr int kMajor = 9, kMinor = 0;

std::string text(cudaError_t status) {
  return fmt::format("{} ({})", cudaGetErrorString(status), cudaGetErrorName(status));
}

void use(int device) { check_cuda(cudaSetDevice(device), "choosing it"); }

}  // namespace

void check_cuda(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // an error that lasts comes again by itself
  fail("GPU: {}: {}", what, text(status));
}

std::string why_unusable(int device) {
  int driver = 0, runtime = 0, count = 0, major = 0, minor = 0;
  if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) return "no NVIDIA driver was found";
  cudaRuntimeGetVersion(&runtime);
  if (driver / 1000 < runtime / 1000)
    return fmt::format("its driver is for CUDA {}.{}, expected one for {}.0", driver / 1000, driver % 1000 / 10,
                       runtime / 1000);
  if (const cudaError_t status = cudaGetDeviceCount(&count); status != cudaSuccess) {
    cudaGetLastError();
    return text(status);
  }
  if (device >= count) return fmt::format("this machine has {} GPU{}", count, count == 1 ? "" : "s");
  if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess ||
      cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) != cudaSuccess)
    return "it does not answer";
  if (major != kMajor || minor != kMinor)
    return fmt::format("expected a Hopper GPU (compute capability {}.{}), found {}.{}", kMajor, kMinor, major, minor);
  return {};
}

size_t free_memory(int device) {
  size_t available = 0, total = 0;
  use(device);
  check_cuda(cudaMemGetInfo(&available, &total), "its free memory");
  return available;
}

void* allocate(int device, size_t bytes) {
  void* memory = nullptr;
  use(device);
  if (const cudaError_t status = cudaMalloc(&memory, bytes); status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    fail("GPU memory: expected {} MiB, found {} MiB free", bytes >> 20, free_memory(device) >> 20);
  } else {
    check_cuda(status, "taking memory");
  }
  check_cuda(cudaMemset(memory, 0, bytes), "clearing memory");
  check_cuda(cudaDeviceSynchronize(), "clearing memory");  // streams of ours do not wait for it
  return memory;
}

void release(int device, void* memory) {
  if (cudaSetDevice(device) == cudaSuccess) cudaFree(memory);
}

void* allocate_shared(size_t bytes) {
  void* memory = nullptr;
  check_cuda(cudaHostAlloc(&memory, bytes, cudaHostAllocPortable | cudaHostAllocMapped), "taking host memory");
  return memory;
}

void release_shared(void* memory) { cudaFreeHost(memory); }

Queue::Queue(int device) : device_(device) {
  if (const std::string why = why_unusable(device); !why.empty())
    fail("device {}: {}", device_text({Device::Kind::cuda, device}), why);
  use(device);
  check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "making a stream");
}

Queue::~Queue() {
  if (cudaSetDevice(device_) != cudaSuccess) return;
  if (scratch_) cudaFreeAsync(scratch_, stream_);
  cudaStreamDestroy(stream_);
}

cudaStream_t Queue::stream() {
  use(device_);
  return stream_;
}

void* Queue::scratch(size_t bytes) {
  if (bytes <= scratch_bytes_) return scratch_;
  const cudaStream_t s = stream();
  if (scratch_) check_cuda(cudaFreeAsync(scratch_, s), "giving scratch memory back");
  scratch_ = nullptr;
  scratch_bytes_ = 0;
  const size_t grown = bytes + bytes / 4 + (size_t{1} << 20);
  check_cuda(cudaMallocAsync(&scratch_, grown, s), "taking scratch memory");
  scratch_bytes_ = grown;
  return scratch_;
}

std::shared_ptr<Queue> open_queue(int device) { return std::make_shared<Queue>(device); }

void synchronize(Queue& queue) { check_cuda(cudaStreamSynchronize(queue.stream()), "running"); }

std::shared_ptr<const void> mark(Queue& queue) {
  cudaEvent_t event = nullptr;
  check_cuda(cudaEventCreate(&event), "a point in time");
  const std::shared_ptr<const void> owner(
      event, [](const void* e) { cudaEventDestroy(static_cast<cudaEvent_t>(const_cast<void*>(e))); });
  check_cuda(cudaEventRecord(event, queue.stream()), "a point in time");
  return owner;
}

double seconds_between(const std::shared_ptr<const void>& begin, const std::shared_ptr<const void>& end) {
  const auto event = [](const std::shared_ptr<const void>& e) {
    return static_cast<cudaEvent_t>(const_cast<void*>(e.get()));
  };
  float milliseconds = 0;
  check_cuda(cudaEventElapsedTime(&milliseconds, event(begin), event(end)), "the time between two points");
  return 1e-3 * static_cast<double>(milliseconds);
}

void transfer(Queue& queue, const Tensor& to, const Tensor& from, Direction direction) {
  const size_t size = dtype_size(to.dtype), width = static_cast<size_t>(to.cols()) * size;
  const cudaMemcpyKind kind = direction == Direction::to_device ? cudaMemcpyHostToDevice : cudaMemcpyDeviceToHost;
  if (to.size() == 0) return;
  if (to.packed() && from.packed())
    check_cuda(cudaMemcpyAsync(to.data, from.data, to.bytes(), kind, queue.stream()), "copying");
  else
    check_cuda(
        cudaMemcpy2DAsync(to.data, static_cast<size_t>(to.ld) * size, from.data, static_cast<size_t>(from.ld) * size,
                          width, static_cast<size_t>(to.rows()), kind, queue.stream()),
        "copying");
  synchronize(queue);
}

}  // namespace sluice::cuda
