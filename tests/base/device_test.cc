#include "base/device.h"

#include <gtest/gtest.h>

#include <vector>

#include "base/arena.h"
#include "base/config.h"
#include "base/error.h"
#include "base/stream.h"
#include "base/transfer.h"

namespace sluice {
namespace {

const Device kGpu{Device::Kind::cuda, 0};

TEST(Device, NamesAreReadAndWritten) {
  EXPECT_EQ(parse_device("cpu"), Device());
  EXPECT_EQ(parse_device("cuda"), kGpu);
  EXPECT_EQ(parse_device("cuda:3"), (Device{Device::Kind::cuda, 3}));
  for (const Device& d : {Device(), kGpu, Device{Device::Kind::cuda, 12}}) EXPECT_EQ(parse_device(device_text(d)), d);
  for (const char* text : {"", "gpu", "CUDA", "cuda:", "cuda:-1", "cuda:1x", "cuda:99999999999", "cuda: 1", "cpu:0"})
    EXPECT_THROW(parse_device(text), Error) << text;
}

TEST(Device, TheCpuIsUsableAndAGpuThatIsNotThereSaysWhy) {
  const Device none{Device::Kind::cuda, 1000};
  EXPECT_EQ(why_unusable(Device()), "");
  const std::string why = why_unusable(none);
  EXPECT_FALSE(why.empty());
  EXPECT_EQ(why.find('\n'), std::string::npos);
  EXPECT_THROW(Stream(none, 1), Error);
}

TEST(Device, TransfersOnTheCpuAreCopies) {
  Stream s(1);
  std::vector<float> from = {1, 2, 3, 4}, to(6, 0);
  Tensor strided(to.data(), {2, 2});
  strided.ld = 3;
  upload(s, strided, Tensor(from.data(), {2, 2}));
  EXPECT_EQ(to, (std::vector<float>{1, 2, 0, 3, 4, 0}));
  std::vector<float> back(4);
  download(s, Tensor(back.data(), {2, 2}), strided);
  EXPECT_EQ(back, from);
  EXPECT_THROW(upload(s, strided, Tensor(from.data(), {4})), Bug);
}

/// Tests that need a GPU.
class CudaDevice : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string why = why_unusable(kGpu); !why.empty()) GTEST_SKIP() << why;
  }
};

TEST_F(CudaDevice, TransfersKeepEveryElementAndTouchNoOther) {
  Stream s(kGpu, 1);
  Arena memory(size_t{1} << 20, kGpu);
  const Tensor all = memory.f32(7, 11);
  Tensor part = all.slice_cols(2, 5);
  std::vector<float> from(35), back(77);
  for (size_t i = 0; i < from.size(); ++i) from[i] = static_cast<float>(i) + 1;
  upload(s, part, Tensor(from.data(), {7, 5}));
  download(s, Tensor(back.data(), {7, 11}), all);
  for (size_t i = 0; i < back.size(); ++i) {
    const size_t row = i / 11, col = i % 11;
    EXPECT_EQ(back[i], col >= 2 && col < 7 ? from[row * 5 + col - 2] : 0) << i;  // fresh memory is zero
  }
}

TEST_F(CudaDevice, TooLittleMemoryIsOneLine) {
  const size_t available = free_memory(kGpu);
  EXPECT_GT(available, 0u);
  try {
    const Arena memory(available + (size_t{1} << 30), kGpu);
    FAIL() << "expected an Error";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("MiB free"), std::string::npos) << e.what();
  }
  const Arena memory(size_t{1} << 20, kGpu);  // the next one works
}

}  // namespace
}  // namespace sluice
