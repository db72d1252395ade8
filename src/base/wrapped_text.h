// WrappedText: text in lines of a given width, for --help.
//
// Threads: plain values.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace pando {

// Breaks at spaces. Lines after the first begin with `indent` spaces; the first has `used` columns before it. A word
// that is longer than a line gets a line of its own.
inline std::string WrappedText(std::string_view text, size_t used, size_t indent, size_t width) {
  std::string out;
  size_t column = used;
  bool first_of_line = true;
  while (!text.empty()) {
    const size_t end = text.find(' ');
    const std::string_view word = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    if (word.empty()) continue;
    if (!first_of_line && column + 1 + word.size() > width) {
      out += '\n';
      out.append(indent, ' ');
      column = indent;
      first_of_line = true;
    }
    if (!first_of_line) {
      out += ' ';
      ++column;
    }
    out += word;
    column += word.size();
    first_of_line = false;
  }
  return out;
}

}  // namespace pando
