// Table: text with aligned columns. With `align_numbers`, a column is right-aligned if all its
// cells are numbers. Also formats sizes, counts and times for people.
//
// Threads: a plain value.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace pando::tools {

class Table {
 public:
  explicit Table(std::vector<std::string> header, bool align_numbers = true);
  void Row(std::vector<std::string> cells);  // REQUIRES: as many cells as the header has
  std::string Render() const;

 private:
  std::vector<std::vector<std::string>> rows_;  // the header first
  bool align_numbers_;
};

// The number of columns that `text` takes on a terminal: code points, not bytes.
size_t DisplayWidth(std::string_view text);

std::string HumanBytes(double bytes);      // "1.5 GiB"
std::string HumanCount(double count);      // "1.25M"
std::string HumanSeconds(double seconds);  // "1h02m", "3m05s", "12s"

}  // namespace pando::tools
