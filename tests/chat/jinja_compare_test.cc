// Chat templates against the npm package @huggingface/jinja (tests/web/jinja_cases.mjs); skipped without it.
#include <gtest/gtest.h>

#include <cstdlib>

#include "base/file.h"
#include "jinja_kit.h"

namespace sluice {
namespace {

TEST(JinjaCompare, TheSameTexts) {
  const char* file = std::getenv("SLUICE_JINJA_CASES");
  if (!file || !fs::exists(file)) GTEST_SKIP() << "no cases: run it with ctest where node and npm are";
  const OrderedJson cases = parse_ordered_json(read_file(file), file);
  ASSERT_GT(cases.size(), 200u);
  for (const OrderedJson& test : cases)
    EXPECT_EQ(rendered(test["source"].get<std::string>(), test["context"]), test["text"].get<std::string>())
        << test["name"] << test["context"].dump().substr(0, 2000);
}

}  // namespace
}  // namespace sluice
