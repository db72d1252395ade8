#include "tools/kvadmin/record_reader.h"

#include <csv.h>
#include <fmt/format.h>

#include <deque>
#include <nlohmann/json.hpp>
#include <vector>

#include "src/base/limits.h"
#include "tools/common/command_line.h"
#include "tools/kvadmin/bytes.h"

namespace pando::admin {

namespace {

using JsonIn = nlohmann::json;

// The longest line or CSV record that is read. A record within the server's limits has less, even
// if every byte of its value is escaped; an input without line ends must not fill the memory.
constexpr size_t kMaxRecordBytes = 16u << 20;
static_assert(kMaxRecordBytes > 6 * (kMaxKeyBytes + kMaxValueBytes));  // \u0000 is the longest escape

const char* TooLongText() { return "longer than 16 MiB"; }

// Reads lines, and counts lines and bytes. A byte order mark at the beginning is dropped.
class Lines {
 public:
  explicit Lines(std::istream& in) : in_(in), piece_(64u << 10) {}
  // Returns false at the end. `line` keeps its '\n', because the CSV parser needs it. A line that is
  // longer than kMaxRecordBytes is cut, and too_long() is true until the next call.
  bool Next(std::string* line) {
    std::string skipped;
    while (too_long_) {
      skipped.clear();
      too_long_ = Read(&skipped) == End::kLimit;
    }
    line->clear();
    const End end = Read(line);
    if (in_.bad() || (end == End::kInput && line->empty())) return false;
    too_long_ = end == End::kLimit;
    if (++number_ == 1 && line->starts_with("\xef\xbb\xbf")) line->erase(0, 3);
    if (end == End::kLine) line->push_back('\n');
    return true;
  }
  bool too_long() const { return too_long_; }
  uint64_t number() const { return number_; }
  uint64_t bytes() const { return bytes_; }
  Status status() const {
    return in_.bad() ? Error(Code::kIoError, "cannot read the input after line {}", number_) : Status();
  }

 private:
  enum class End : uint8_t { kLine, kInput, kLimit };
  // Appends to `line` until one of these ends.
  End Read(std::string* line) {
    for (;;) {
      in_.getline(piece_.data(), static_cast<std::streamsize>(piece_.size()));
      const auto got = static_cast<size_t>(in_.gcount());
      bytes_ += got;
      if (in_.good()) {  // got includes the line end
        line->append(piece_.data(), got - 1);
        return End::kLine;
      }
      line->append(piece_.data(), got);
      if (in_.eof() || in_.bad()) return End::kInput;
      in_.clear();  // getline fails when the piece is full
      if (line->size() > kMaxRecordBytes) return End::kLimit;
    }
  }

  std::istream& in_;
  std::vector<char> piece_;
  uint64_t number_ = 0, bytes_ = 0;
  bool too_long_ = false;
};

// nlohmann's text counts lines, but the text is one line of the input, and begins with a number
// that says nothing to users.
std::string JsonProblem(const std::string& what) {
  const size_t column = what.find("column ");
  return column == std::string::npos ? what : what.substr(column);
}

Result<int64_t> ParseMilliseconds(std::string_view text, std::string_view name) {
  const std::optional<int64_t> value = tools::ParseNumber<int64_t>(text);
  if (value && *value >= 0) return *value;
  return Error(Code::kInvalidArgument, "{}: \"{}\" is not a number of milliseconds of at least 0", name,
               text.substr(0, 40));
}

class JsonLinesReader final : public RecordReader {
 public:
  explicit JsonLinesReader(std::istream& in) : lines_(in) {}

  Result<bool> Next(InputRecord* record) override {
    do {
      if (!lines_.Next(&text_)) {
        RETURN_IF_ERROR(lines_.status());
        return false;
      }
    } while (!lines_.too_long() && text_.find_first_not_of(" \t\r\n") == std::string::npos);
    *record = InputRecord{};
    Status status = Parse(record);
    if (!status.ok()) record->error = status.message();
    record->line = lines_.number();
    return true;
  }
  uint64_t bytes_read() const override { return lines_.bytes(); }
  uint64_t lines_read() const override { return lines_.number(); }

 private:
  Status Parse(InputRecord* record) {
    if (lines_.too_long()) return Error(Code::kInvalidArgument, "the line is {}", TooLongText());
    // The parser would take a NUL byte for the end of the text, and drop what follows.
    if (const size_t nul = text_.find('\0'); nul != std::string::npos) {
      return Error(Code::kInvalidArgument, "not JSON: column {}: there is a NUL byte", nul + 1);
    }
    if (text_.ends_with('\n')) text_.pop_back();
    JsonIn object;
    try {
      object = JsonIn::parse(text_);
    } catch (const JsonIn::exception& e) {
      return Error(Code::kInvalidArgument, "not JSON: {}", JsonProblem(e.what()));
    }
    if (!object.is_object()) return Error(Code::kInvalidArgument, "not a JSON object");
    RETURN_IF_ERROR(TakeBytes(object, "key", &record->key));
    RETURN_IF_ERROR(TakeBytes(object, "value", &record->value));
    RETURN_IF_ERROR(TakeMilliseconds(object, "ttl_ms", &record->ttl_ms));
    return TakeMilliseconds(object, "expires_at_ms", &record->expires_at_ms);
  }
  static Status TakeBytes(JsonIn& object, const std::string& name, std::string* out) {
    auto text = object.find(name), base64 = object.find(name + "_b64");
    if ((text == object.end()) == (base64 == object.end())) {
      return Error(Code::kInvalidArgument, "needs either \"{0}\" or \"{0}_b64\"", name);
    }
    JsonIn& member = text != object.end() ? *text : *base64;
    if (!member.is_string()) {
      return Error(Code::kInvalidArgument, "\"{0}\" is a {1}, not a string (bytes go into \"{0}_b64\")", name,
                   member.type_name());
    }
    if (text != object.end()) {
      *out = std::move(member.get_ref<std::string&>());
      return Status();
    }
    Result<std::string> bytes = Base64Decode(member.get_ref<std::string&>());
    if (!bytes.ok()) return Error(Code::kInvalidArgument, "\"{}_b64\": {}", name, bytes.status().message());
    *out = *std::move(bytes);
    return Status();
  }
  static Status TakeMilliseconds(const JsonIn& object, const char* name, int64_t* out) {
    auto member = object.find(name);
    if (member == object.end()) return Status();
    // get<int64_t> would turn an unsigned number beyond int64 negative, and truncate a fraction.
    if (!member->is_number_integer() || member->get<int64_t>() < 0 ||
        (member->is_number_unsigned() && member->get<uint64_t>() > static_cast<uint64_t>(INT64_MAX))) {
      return Error(Code::kInvalidArgument, "\"{}\" is not a whole number of milliseconds of at least 0", name);
    }
    *out = member->get<int64_t>();
    return Status();
  }

  Lines lines_;
  std::string text_;
};

// libcsv calls back for each field and each row. CsvReader feeds it line by line, in order to know
// the first line of each row.
class CsvReader final : public RecordReader {
 public:
  explicit CsvReader(std::istream& in) : lines_(in) { InitParser(); }
  ~CsvReader() override { csv_free(&parser_); }

  Result<bool> Next(InputRecord* record) override {
    if (columns_.empty()) RETURN_IF_ERROR(ReadHeader());
    ASSIGN_OR_RETURN(bool any, Fill());
    if (!any) return false;
    *record = InputRecord{};
    Row row = std::move(rows_.front());
    rows_.pop_front();
    Status status = row.error.empty() ? Interpret(&row, record) : Status(Code::kInvalidArgument, row.error);
    if (!status.ok()) record->error = status.message();
    record->line = row.line;
    return true;
  }
  uint64_t bytes_read() const override { return lines_.bytes(); }
  uint64_t lines_read() const override {
    if (!rows_.empty()) return rows_.front().line - 1;
    return in_row_ ? row_line_ - 1 : lines_.number();
  }

 private:
  enum class Column : uint8_t { kIgnored, kKey, kKeyBase64, kValue, kValueBase64, kTtl, kExpiry };
  struct Row {
    uint64_t line = 0;
    std::vector<std::string> fields;
    std::string error;
  };

  // Feeds lines to the parser until a row is complete. Returns false at the end of the input.
  Result<bool> Fill() {
    while (rows_.empty() && !ended_) {
      if (!lines_.Next(&text_)) {
        RETURN_IF_ERROR(lines_.status());
        ended_ = true;
        if (csv_fini(&parser_, OnField, OnRow, this) != 0) {
          Broken(fmt::format("the record that begins on line {} has a quoted field without an end quote", row_line_));
        }
        break;
      }
      if (!in_row_) {
        row_line_ = lines_.number();
        row_bytes_ = 0;
      }
      row_bytes_ += text_.size();
      if (lines_.too_long() || row_bytes_ > kMaxRecordBytes) {
        Broken(fmt::format("the record that begins on line {} is {}", row_line_, TooLongText()));
        continue;
      }
      bool blank = text_ == "\n" || text_ == "\r\n";
      if (!blank) in_row_ = true;
      // In strict mode the parser stops before the misplaced byte.
      const size_t stop = csv_parse(&parser_, text_.data(), text_.size(), OnField, OnRow, this);
      if (stop != text_.size()) Broken(Misplaced(stop));
    }
    return !rows_.empty();
  }
  // Gives up on the current row. Reading continues with the next line.
  void Broken(const std::string& why) {
    rows_.push_back(Row{row_line_, {}, "not CSV: " + why});
    fields_.clear();
    in_row_ = false;
    csv_free(&parser_);
    InitParser();
    KeepSpaces();
  }
  void InitParser() {
    CHECK_EQ(csv_init(&parser_, CSV_STRICT | CSV_STRICT_FINI), 0);
    csv_set_blk_size(&parser_, 64u << 10);  // the buffer grows by this; 128 bytes copy a long field too often
  }
  // Keeps leading and trailing spaces of unquoted fields. The header drops them around its names.
  void KeepSpaces() {
    csv_set_space_func(&parser_, [](unsigned char) { return 0; });
  }
  // Describes what is wrong with the byte at offset `at` of the current line.
  std::string Misplaced(size_t at) {
    if (csv_error(&parser_) != CSV_EPARSE) return csv_strerror(csv_error(&parser_));
    return fmt::format("line {}, column {}: {}", lines_.number(), at + 1,
                       text_[at] == '"'
                           ? "there is a quote in an unquoted field; quote the whole field and double each quote in it"
                           : "there is text after the end quote of a field; double each quote inside a quoted field");
  }
  static void OnField(void* bytes, size_t length, void* self) {
    static_cast<CsvReader*>(self)->fields_.emplace_back(static_cast<const char*>(bytes), length);
  }
  static void OnRow(int, void* self) {
    auto* me = static_cast<CsvReader*>(self);
    me->rows_.push_back(Row{me->row_line_, std::move(me->fields_), {}});
    me->fields_.clear();
    me->in_row_ = false;
  }

  Status ReadHeader() {
    ASSIGN_OR_RETURN(bool any, Fill());
    if (!any) return Error(Code::kInvalidArgument, "the CSV input is empty; it needs a header line such as key,value");
    Row header = std::move(rows_.front());
    rows_.pop_front();
    if (!header.error.empty()) return Error(Code::kInvalidArgument, "the CSV header is invalid: {}", header.error);
    int keys = 0, values = 0;
    for (std::string& name : header.fields) {
      name.erase(0, name.find_first_not_of(" \t"));
      name.erase(name.find_last_not_of(" \t") + 1);
      Column column = Column::kIgnored;
      if (name == "key") column = Column::kKey, ++keys;
      if (name == "key_b64") column = Column::kKeyBase64, ++keys;
      if (name == "value") column = Column::kValue, ++values;
      if (name == "value_b64") column = Column::kValueBase64, ++values;
      if (name == "ttl_ms") column = Column::kTtl;
      if (name == "expires_at_ms") column = Column::kExpiry;
      columns_.push_back(column);
    }
    KeepSpaces();
    if (keys == 1 && values == 1) return Status();
    return Error(
        Code::kInvalidArgument,
        "the CSV header must have exactly one column key or key_b64 and one column value or value_b64; it is \"{}\"",
        fmt::join(header.fields, ","));
  }

  Status Interpret(Row* row, InputRecord* record) {
    if (row->fields.size() != columns_.size()) {
      return Error(Code::kInvalidArgument, "the record has {} fields, but the header has {}", row->fields.size(),
                   columns_.size());
    }
    for (size_t i = 0; i < columns_.size(); ++i) {
      std::string& field = row->fields[i];
      switch (columns_[i]) {
        case Column::kIgnored: break;
        case Column::kKey: record->key = std::move(field); break;
        case Column::kValue: record->value = std::move(field); break;
        case Column::kKeyBase64: {
          ASSIGN_OR_RETURN(record->key, Base64Decode(field));
          break;
        }
        case Column::kValueBase64: {
          ASSIGN_OR_RETURN(record->value, Base64Decode(field));
          break;
        }
        case Column::kTtl: {
          if (!field.empty()) {
            ASSIGN_OR_RETURN(record->ttl_ms, ParseMilliseconds(field, "ttl_ms"));
          }
          break;
        }
        case Column::kExpiry: {
          if (!field.empty()) {
            ASSIGN_OR_RETURN(record->expires_at_ms, ParseMilliseconds(field, "expires_at_ms"));
          }
          break;
        }
      }
    }
    return Status();
  }

  Lines lines_;
  csv_parser parser_{};
  std::vector<Column> columns_;
  std::vector<std::string> fields_;
  std::deque<Row> rows_;
  std::string text_;
  uint64_t row_line_ = 0;
  size_t row_bytes_ = 0;
  bool in_row_ = false, ended_ = false;
};

}  // namespace

std::unique_ptr<RecordReader> MakeRecordReader(Format format, std::istream& in) {
  if (format == Format::kCsv) return std::make_unique<CsvReader>(in);
  return std::make_unique<JsonLinesReader>(in);
}

Format FormatOfFile(const std::string& path) { return path.ends_with(".csv") ? Format::kCsv : Format::kJsonLines; }

}  // namespace pando::admin
