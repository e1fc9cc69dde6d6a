#include "parallel/communicator.h"

#include <cstring>

#include "base/config.h"
#include "parallel/mpi.h"

namespace sluice {
namespace {

class SelfCommunicator : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  Transfer all_reduce(const Tensor&) override { return {}; }
  Transfer reduce(const Tensor&, int) override { return {}; }
  Transfer broadcast(std::span<std::byte>, int) override { return {}; }
  Transfer all_to_all(const ByteRanges& in, const ByteRanges& out) override {
    std::memcpy(in.data + in.offset[0], out.data + out.offset[0], static_cast<size_t>(out.count[0]));
    return {};
  }
  Transfer send(std::span<const std::byte>, int, int) override { fail_alone(); }
  Transfer receive(std::span<std::byte>, int, int) override { fail_alone(); }
  std::unique_ptr<Communicator> split(int) override { return self_communicator(); }

 private:
  [[noreturn]] static void fail_alone() {
    check(false, "communicator: a rank alone has nobody to send to");
    std::abort();
  }
};

}  // namespace

std::span<std::byte> bytes_of(const Tensor& t) {
  check(t.rows() <= 1 || t.ld == t.cols(), "bytes_of: expected rows without gaps");
  return {static_cast<std::byte*>(t.data), t.bytes()};
}

int64_t agree(Communicator& ranks, int64_t value) {
  ranks.broadcast(bytes_of(Tensor(&value, DType::i64, {1})), 0).wait();
  return value;
}

std::unique_ptr<Communicator> self_communicator() { return std::make_unique<SelfCommunicator>(); }

std::unique_ptr<Communicator> mpi_communicator([[maybe_unused]] std::function<bool()> is_told_to_stop) {
  if constexpr (kHasMpi) return mpi::world(std::move(is_told_to_stop));
  fail("started as one of several ranks: expected a build with MPI (cmake --preset mpi), found one without");
}

void abort_all_ranks([[maybe_unused]] int exit_code, [[maybe_unused]] const std::string& why) {
  if constexpr (kHasMpi) mpi::abort(exit_code, why);
}

}  // namespace sluice
