#include "base/op_times.h"

#include <map>

#include "op_test.h"
#include "ops/elementwise.h"
#include "ops/linear.h"

namespace sluice::test {
namespace {

TEST(OpTimes, AddUpByOpAndSizes) {
  Stream s(1);
  const Host x = Host(DType::f32, 3, 5).fill(1), w = Host(DType::f32, 4, 5).fill(1);
  Host y(DType::f32, 3, 4), z(DType::f32, 3, 4);
  OpTimes times;
  linear_forward(s, y, x, as_matrix(w));  // not noted
  s.set_times(&times);
  for (int i = 0; i < 2; ++i) linear_forward(s, y, x, as_matrix(w));
  copy(s, z, y);
  s.set_times(nullptr);
  copy(s, z, y);  // not noted
  std::map<std::string, int64_t> calls;
  double before = 1e9;
  for (const OpTimes::Kind& k : times.kinds(s)) {
    calls[k.name] = k.calls;
    EXPECT_GE(k.seconds, 0) << k.name;
    EXPECT_LE(k.seconds, before) << "the longest first";
    before = k.seconds;
  }
  EXPECT_EQ(calls, (std::map<std::string, int64_t>{{"linear_forward 3x4 [4x5]", 2}, {"copy 3x4", 1}}));
}

}  // namespace
}  // namespace sluice::test
