#include "tools/kvadmin/range.h"

namespace pando::admin {

void AddEncodingOptions(tools::Command command, Encoding* encoding) {
  auto hex = command.Flag(
      "--hex", [encoding] { *encoding = Encoding::kHex; }, "Read and print keys and values in hexadecimal");
  command
      .Flag(
          "--base64", [encoding] { *encoding = Encoding::kBase64; }, "Read and print keys and values in base64")
      .Excludes(hex);
}

void AddSnapshotOption(tools::Command command, std::string* token) {
  command.Text("--snapshot", token, "Read this snapshot: the token that `kvadmin snapshot open` printed").NotEmpty();
}

void AddKeyRangeOptions(tools::Command command, RangeOptions* options) {
  command.Text("--start", &options->start, "First key (inclusive)");
  command.Text("--end", &options->end, "End of the range (exclusive)");
  command.Text("--prefix", &options->prefix, "Only keys that begin with this");
  AddEncodingOptions(command, &options->encoding);
}

void AddRangeOptions(tools::Command command, RangeOptions* options) {
  AddKeyRangeOptions(command, options);
  AddSnapshotOption(command, &options->snapshot);
}

void AddPageOptions(tools::Command command, RangeOptions* options, const std::string& name, const std::string& rows) {
  command.Number("--limit", &options->limit, "Most " + rows + " to print; 0 = all").ShowDefault();
  command.Text("--cursor", &options->cursor,
               "Continue an earlier " + name + " of the same range: the cursor that it printed");
}

Result<Range> BuildRange(const RangeOptions& options) {
  Range range;
  ASSIGN_OR_RETURN(range.start, DecodeInput(options.start, options.encoding, "--start"));
  ASSIGN_OR_RETURN(range.end, DecodeInput(options.end, options.encoding, "--end"));
  ASSIGN_OR_RETURN(range.prefix, DecodeInput(options.prefix, options.encoding, "--prefix"));
  if (!range.end.empty() && range.start > range.end) {
    return Error(Code::kInvalidArgument, "--start {} is above --end {}, so no key can be between them", options.start,
                 options.end);
  }
  ASSIGN_OR_RETURN(range.snapshot, Base64Decode(options.snapshot));
  ASSIGN_OR_RETURN(range.cursor, Base64Decode(options.cursor));
  return Result<Range>(std::move(range));
}

}  // namespace pando::admin
