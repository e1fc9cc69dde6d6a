#include "base/recording.h"

#include "base/error.h"
#include "op_test.h"
#include "ops/elementwise.h"

namespace sluice::test {
namespace {

class CudaRecording : public testing::Test {
 protected:
  void SetUp() override {
    if (!has_gpu()) GTEST_SKIP() << "no GPU";
    tested_device() = Device::Kind::cuda;
  }
  void TearDown() override { tested_device() = Device::Kind::cpu; }
};

TEST_F(CudaRecording, OpsRunWhenTheyAreReplayed) {
  Stream& s = *tested_streams().front();
  Host x(DType::f32, 2, 5), y(DType::f32, 2, 5);
  x.fill(3), y.fill(1);
  const Recording twice(s, [&] {
    add(s, y, y, x);
    add(s, y, y, x);
  });
  s.synchronize();
  EXPECT_EQ(y.get()(1, 4), 1);
  for (int i = 0; i < 3; ++i) twice.replay(s);
  s.synchronize();
  EXPECT_EQ(y.get()(1, 4), 1 + 3 * 2 * 3);
  EXPECT_TRUE(twice.is_current(s));
}

TEST_F(CudaRecording, AnErrorEndsTheRecordingAlone) {
  Stream& s = *tested_streams().front();
  Host x(DType::f32, 1, 4), y(DType::f32, 1, 4);
  x.fill(2), y.fill(0);
  EXPECT_THROW(Recording(s,
                         [&] {
                           add(s, y, y, x);
                           fail("no");
                         }),
               Error);
  add(s, y, y, x);
  s.synchronize();
  EXPECT_EQ(y.get()(0, 0), 2);
}

}  // namespace
}  // namespace sluice::test
