#include "base/cuda/queue.h"
#include "base/cuda/runtime.h"

namespace sluice::cuda {

/// Kernels of a queue that are launched together.
class Graph {
 public:
  Graph(cudaGraphExec_t executable, const void* scratch) : executable_(executable), scratch_(scratch) {}
  ~Graph() { cudaGraphExecDestroy(executable_); }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  cudaGraphExec_t executable() const { return executable_; }
  const void* scratch() const { return scratch_; }

 private:
  cudaGraphExec_t executable_;
  const void* scratch_;
};

std::shared_ptr<const Graph> record(Queue& queue, const std::function<void()>& queue_ops) {
  cudaGraph_t graph = nullptr;
  check_cuda(cudaStreamBeginCapture(queue.stream(), cudaStreamCaptureModeThreadLocal), "recording");
  try {
    queue_ops();
  } catch (...) {
    cudaStreamEndCapture(queue.stream(), &graph);
    if (graph) cudaGraphDestroy(graph);
    cudaGetLastError();  // that of the recording; the one thrown is why
    throw;
  }
  check_cuda(cudaStreamEndCapture(queue.stream(), &graph), "recording");
  cudaGraphExec_t executable = nullptr;
  const cudaError_t status = cudaGraphInstantiate(&executable, graph, 0);
  cudaGraphDestroy(graph);
  check_cuda(status, "recording");
  return std::make_shared<const Graph>(executable, queue.scratch_data());
}

bool is_current(const Queue& queue, const Graph& graph) { return queue.scratch_data() == graph.scratch(); }

void replay(Queue& queue, const Graph& graph) {
  check_cuda(cudaGraphLaunch(graph.executable(), queue.stream()), "launching a recording");
}

}  // namespace sluice::cuda
