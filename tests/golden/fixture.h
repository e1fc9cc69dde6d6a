// One golden folder: a checkpoint and the values expected of it.
#pragma once
#include <gtest/gtest.h>

#include <optional>
#include <string>

#include "formats/safetensors.h"
#include "model/checkpoint.h"
#include "model/model.h"

namespace sluice {

class GoldenFixture {
 public:
  GoldenFixture(Stream& s, const fs::path& folder);
  /// Runs every check whose keys are present; failures are GoogleTest failures.
  void check_all();
  int checks() const { return checks_; }
  /// What was checked, with the largest error of each kind.
  std::string summary() const { return summary_; }

 private:
  void check_forward(const SafetensorsFile& expected);
  void check_hidden(const SafetensorsFile& expected, const PassResult& result);
  void check_gradients(const SafetensorsFile& expected);
  void check_balance(const SafetensorsFile& expected);
  void check_greedy(const SafetensorsFile& expected);
  void check_training(const SafetensorsFile& expected);

  /// Elements of a tensor of the device.
  std::vector<float> read(const Tensor& t);
  Tensor ids_tensor(const std::vector<int32_t>& ids);
  double total(const Tensor& loss);
  ModelBatch batch_of(const SafetensorsEntry& ids, int64_t row0, int64_t rows);
  /// max|a - b| / max|b|
  void compare_max(const char* what, const Tensor& got, const std::vector<float>& expected, double limit);
  void note(const char* what, double error, double limit);

  Stream& s_;
  fs::path folder_;
  Model model_;
  Arena arena_;
  int checks_ = 0;
  std::string summary_;
};

}  // namespace sluice
