#include "tools/kvadmin/parquet_file.h"

#include <libdeflate.h>
#include <lz4.h>
#include <thrift/protocol/TCompactProtocol.h>
#include <thrift/transport/TBufferTransports.h>
#include <zstd.h>

#include <algorithm>
#include <functional>
#include <iterator>
#include <utility>
#include <vector>

#include "gen-cpp/parquet_types.h"
#include "src/base/codec.h"

namespace pando::admin {

namespace {

using apache::thrift::protocol::TCompactProtocolT;
using apache::thrift::transport::TMemoryBuffer;
namespace pq = parquet;

constexpr size_t kPageBytes = 1 << 20;   // of values, before compression
constexpr size_t kStatisticsBytes = 64;  // of a bound of keys
constexpr int kZstdLevel = 1;            // a level of 3 costs twice the time, and saves a few percent
constexpr size_t kMostHeadBytes = 64;    // of a page
constexpr size_t kMaxFooterBytes = 1u << 30;

template <typename T>
std::string Encode(const T& value) {
  auto memory = std::make_shared<TMemoryBuffer>();
  TCompactProtocolT<TMemoryBuffer> protocol(memory);
  value.write(&protocol);
  return memory->getBufferAsString();
}

template <typename T>
Status Decode(const std::string& bytes, T* value) {
  try {
    std::string copy = bytes;
    auto memory = std::make_shared<TMemoryBuffer>(reinterpret_cast<uint8_t*>(copy.data()),
                                                  static_cast<uint32_t>(copy.size()), TMemoryBuffer::OBSERVE);
    TCompactProtocolT<TMemoryBuffer> protocol(memory);
    value->read(&protocol);
    return Status();
  } catch (const std::exception& e) {
    return Error(Code::kInvalidArgument, "the metadata of the Parquet file cannot be decoded: {}", e.what());
  }
}

template <typename T>
std::string LittleEndian(T value) {
  std::string bytes(sizeof(T), '\0');
  StoreLE(bytes.data(), value);
  return bytes;
}

void AppendVarint(uint64_t value, std::string* out) {
  for (; value >= 0x80; value >>= 7) out->push_back(static_cast<char>(value | 0x80));
  out->push_back(static_cast<char>(value));
}

// Which values are not null, in the hybrid of run lengths and packed bits: one run, or else all bits packed.
std::string EncodeLevels(const std::vector<bool>& levels) {
  std::string runs;
  if (std::adjacent_find(levels.begin(), levels.end(), std::not_equal_to<>()) == levels.end()) {
    AppendVarint(uint64_t{levels.size()} << 1, &runs);
    runs.push_back(levels.front() ? '\1' : '\0');
  } else {
    const size_t groups = (levels.size() + 7) / 8;
    AppendVarint(uint64_t{groups} << 1 | 1, &runs);
    const size_t begin = runs.size();
    runs.resize(begin + groups);
    for (size_t i = 0; i < levels.size(); ++i) {
      if (levels[i]) runs[begin + i / 8] = static_cast<char>(runs[begin + i / 8] | 1 << (i % 8));
    }
  }
  return LittleEndian(static_cast<uint32_t>(runs.size())) + runs;
}

// The lowest string of at most kStatisticsBytes bytes that is above all that begin with the first bytes of `key`; empty
// if there is none.
std::string CutAbove(const std::string& key) {
  std::string cut = key.substr(0, kStatisticsBytes);
  while (!cut.empty() && cut.back() == '\xff') cut.pop_back();
  if (!cut.empty()) cut.back() = static_cast<char>(static_cast<unsigned char>(cut.back()) + 1);
  return cut;
}

pq::SchemaElement SchemaColumn(const std::string& name, pq::Type::type type, pq::FieldRepetitionType::type repetition) {
  pq::SchemaElement column;
  column.__set_name(name);
  column.__set_type(type);
  column.__set_repetition_type(repetition);
  return column;
}

std::vector<pq::SchemaElement> Schema() {
  pq::SchemaElement root;
  root.__set_name("record");
  root.__set_num_children(4);
  pq::SchemaElement expiry = SchemaColumn("expires_at_ms", pq::Type::INT64, pq::FieldRepetitionType::OPTIONAL);
  expiry.__set_converted_type(pq::ConvertedType::TIMESTAMP_MILLIS);
  pq::TimeUnit unit;
  unit.__set_MILLIS(pq::MilliSeconds());
  pq::TimestampType timestamp;
  timestamp.__set_isAdjustedToUTC(true);
  timestamp.__set_unit(unit);
  pq::LogicalType logical;
  logical.__set_TIMESTAMP(timestamp);
  expiry.__set_logicalType(logical);
  return {root, SchemaColumn("key", pq::Type::BYTE_ARRAY, pq::FieldRepetitionType::REQUIRED),
          SchemaColumn("value", pq::Type::BYTE_ARRAY, pq::FieldRepetitionType::REQUIRED),
          SchemaColumn("version", pq::Type::INT64, pq::FieldRepetitionType::REQUIRED), expiry};
}

struct FreeContext {
  void operator()(ZSTD_CCtx* context) const { ZSTD_freeCCtx(context); }
};

}  // namespace

// The chunk of one column in a row group: pages that are complete, and the values of the next one.
class ParquetRowGroup::Column {
 public:
  Column(std::string name, pq::Type::type type, bool nullable, ParquetCompression compression, ChunkPool* pool)
      : name_(std::move(name)), type_(type), nullable_(nullable), compression_(compression), pool_(pool) {
    if (compression == ParquetCompression::kZstd) zstd_.reset(ZSTD_createCCtx());
  }

  void AddBytes(std::string_view bytes) {
    char* at = Extend(sizeof(uint32_t) + bytes.size());
    StoreLE(at, static_cast<uint32_t>(bytes.size()));
    std::copy(bytes.begin(), bytes.end(), at + sizeof(uint32_t));
    EndValue();
  }
  void AddNumber(int64_t number) {
    StoreLE(Extend(sizeof number), number);
    if (nullable_) levels_.push_back(true);
    if (numbers_++ == 0) least_ = most_ = number;
    least_ = std::min(least_, number);
    most_ = std::max(most_, number);
    EndValue();
  }
  void AddNull() {
    levels_.push_back(false);
    ++nulls_;
    EndValue();
  }

  // Bounds for the statistics of BYTE_ARRAY, which only the key has.
  void SetBounds(const std::string& first, const std::string& last) {
    statistics_.__set_min_value(first.substr(0, kStatisticsBytes));
    statistics_.__set_is_min_value_exact(first.size() <= kStatisticsBytes);
    const bool whole = last.size() <= kStatisticsBytes;
    const std::string most = whole ? last : CutAbove(last);
    if (most.empty()) return;
    statistics_.__set_max_value(most);
    statistics_.__set_is_max_value_exact(whole);
  }

  // Appends the pages to `done`, and starts over.
  pq::ColumnChunk Finish(Done* done) {
    EndPage();
    if (numbers_ > 0) {
      statistics_.__set_min_value(LittleEndian(least_));
      statistics_.__set_max_value(LittleEndian(most_));
      statistics_.__set_is_min_value_exact(true);
      statistics_.__set_is_max_value_exact(true);
    }
    statistics_.__set_null_count(nulls_);
    pq::ColumnMetaData metadata;
    metadata.type = type_;
    metadata.encodings = {pq::Encoding::PLAIN};
    if (nullable_) metadata.encodings.push_back(pq::Encoding::RLE);
    metadata.path_in_schema = {name_};
    metadata.codec = Codec();
    metadata.num_values = count_;
    metadata.total_uncompressed_size = uncompressed_bytes_;
    metadata.total_compressed_size = static_cast<int64_t>(pages_bytes_);
    metadata.data_page_offset = static_cast<int64_t>(done->bytes);
    metadata.__set_statistics(statistics_);
    done->bytes += std::exchange(pages_bytes_, 0);
    std::move(pages_.begin(), pages_.end(), std::back_inserter(done->chunks));
    pages_.clear();
    statistics_ = {};
    count_ = numbers_ = nulls_ = uncompressed_bytes_ = 0;
    pq::ColumnChunk chunk;
    chunk.file_offset = 0;
    chunk.__set_meta_data(metadata);
    return chunk;
  }

 private:
  pq::CompressionCodec::type Codec() const {
    switch (compression_) {
      case ParquetCompression::kZstd: return pq::CompressionCodec::ZSTD;
      case ParquetCompression::kLz4: return pq::CompressionCodec::LZ4_RAW;
      case ParquetCompression::kNone: break;
    }
    return pq::CompressionCodec::UNCOMPRESSED;
  }
  char* Extend(size_t bytes) {
    if (values_.capacity() == 0) {
      values_ = pool_->Take();
      values_.Extend(kMostHeadBytes);
    }
    return values_.Extend(bytes);
  }
  size_t values_bytes() const { return values_.size() > 0 ? values_.size() - kMostHeadBytes : 0; }

  // Compresses `values` into a buffer in which there is room for a header before them.
  ByteBuffer Compress(std::string_view values) {
    const bool zstd = compression_ == ParquetCompression::kZstd;
    const auto values_bytes = static_cast<int>(values.size());  // a page, and a value of at most 1 MiB
    const size_t most = zstd ? ZSTD_compressBound(values.size()) : static_cast<size_t>(LZ4_compressBound(values_bytes));
    ByteBuffer out = pool_->Take();
    out.Reserve(kMostHeadBytes + most);
    out.Extend(kMostHeadBytes);
    char* to = out.data() + kMostHeadBytes;
    size_t bytes;
    if (zstd) {
      bytes = ZSTD_compressCCtx(zstd_.get(), to, most, values.data(), values.size(), kZstdLevel);
      CHECK(!ZSTD_isError(bytes)) << ZSTD_getErrorName(bytes);
    } else {
      bytes = static_cast<size_t>(LZ4_compress_default(values.data(), to, values_bytes, static_cast<int>(most)));
      CHECK_GT(bytes, 0u) << "LZ4 has no room for what it says that it needs at most";
    }
    out.Extend(bytes);
    return out;
  }
  void EndValue() {
    ++count_;
    ++page_values_;
    // Nulls take no bytes of values, and page_values_ bounds them.
    if (values_bytes() >= kPageBytes || static_cast<size_t>(page_values_) >= kPageBytes) EndPage();
  }
  void EndPage() {
    if (page_values_ == 0) return;
    if (nullable_) PutLevelsFirst();
    pq::PageHeader header;
    header.type = pq::PageType::DATA_PAGE;
    const size_t uncompressed = values_bytes();
    header.uncompressed_page_size = static_cast<int32_t>(uncompressed);
    if (compression_ != ParquetCompression::kNone) {
      ByteBuffer compressed = Compress(values_.view().substr(kMostHeadBytes));
      pool_->Give(std::exchange(values_, std::move(compressed)));
    }
    const std::string_view body = values_.view().substr(kMostHeadBytes);
    header.compressed_page_size = static_cast<int32_t>(body.size());
    header.__set_crc(static_cast<int32_t>(libdeflate_crc32(0, body.data(), body.size())));
    pq::DataPageHeader data;
    data.num_values = page_values_;
    data.encoding = pq::Encoding::PLAIN;
    data.definition_level_encoding = data.repetition_level_encoding = pq::Encoding::RLE;
    header.__set_data_page_header(data);
    const std::string head = Encode(header);
    CHECK_LE(head.size(), kMostHeadBytes);
    const size_t begin = kMostHeadBytes - head.size();
    std::copy(head.begin(), head.end(), values_.data() + begin);
    uncompressed_bytes_ += static_cast<int64_t>(head.size() + uncompressed);
    pages_bytes_ += head.size() + body.size();
    pages_.push_back({std::exchange(values_, ByteBuffer()), begin});
    levels_.clear();
    page_values_ = 0;
  }
  // Of a column of numbers, in which nulls take nothing.
  void PutLevelsFirst() {
    ByteBuffer values = std::exchange(values_, ByteBuffer());
    const std::string levels = EncodeLevels(levels_);
    std::copy(levels.begin(), levels.end(), Extend(levels.size()));
    if (values.size() > 0) values_.Append(values.view().substr(kMostHeadBytes));
    pool_->Give(std::move(values));
  }

  const std::string name_;
  const pq::Type::type type_;
  const bool nullable_;
  const ParquetCompression compression_;
  std::unique_ptr<ZSTD_CCtx, FreeContext> zstd_;  // null: another compression
  ChunkPool* const pool_;
  std::vector<FileChunk> pages_;  // a chunk has one page
  size_t pages_bytes_ = 0;
  // Of the page that is being filled. Room for its header is left before the values.
  ByteBuffer values_;
  std::vector<bool> levels_;
  int32_t page_values_ = 0;
  // Of the chunk.
  int64_t count_ = 0, numbers_ = 0, nulls_ = 0, uncompressed_bytes_ = 0;
  int64_t least_ = 0, most_ = 0;
  pq::Statistics statistics_;
};

struct ParquetRowGroup::Columns {
  Columns(ParquetCompression compression, ChunkPool* pool)
      : key("key", pq::Type::BYTE_ARRAY, false, compression, pool),
        value("value", pq::Type::BYTE_ARRAY, false, compression, pool),
        version("version", pq::Type::INT64, false, compression, pool),
        expiry("expires_at_ms", pq::Type::INT64, true, compression, pool) {}
  Column key, value, version, expiry;
  std::string first_key, last_key;
};

ParquetRowGroup::ParquetRowGroup(ParquetCompression compression, ChunkPool* pool)
    : columns_(std::make_unique<Columns>(compression, pool)) {}
ParquetRowGroup::~ParquetRowGroup() = default;

void ParquetRowGroup::Add(const RowView& row) {
  if (rows_++ == 0) columns_->first_key = row.key;
  columns_->last_key = row.key;
  columns_->key.AddBytes(row.key);
  columns_->value.AddBytes(row.value);
  columns_->version.AddNumber(row.version);
  if (row.expires_at_ms != 0) {
    columns_->expiry.AddNumber(row.expires_at_ms);
  } else {
    columns_->expiry.AddNull();
  }
}

ParquetRowGroup::Done ParquetRowGroup::Finish() {
  CHECK_GT(rows_, 0u);
  Done done;
  pq::RowGroup group;
  columns_->key.SetBounds(columns_->first_key, columns_->last_key);
  for (Column* column : {&columns_->key, &columns_->value, &columns_->version, &columns_->expiry}) {
    group.columns.push_back(column->Finish(&done));
    group.total_byte_size += group.columns.back().meta_data.total_uncompressed_size;
  }
  group.num_rows = static_cast<int64_t>(std::exchange(rows_, 0));
  group.__set_total_compressed_size(static_cast<int64_t>(done.bytes));
  pq::SortingColumn by_key;
  by_key.column_idx = 0;
  by_key.descending = by_key.nulls_first = false;
  group.__set_sorting_columns({by_key});
  done.metadata = Encode(group);
  return done;
}

ParquetFooter::ParquetFooter() : metadata_(std::make_unique<pq::FileMetaData>()) {
  metadata_->version = 1;
  metadata_->num_rows = 0;
  metadata_->schema = Schema();
  metadata_->__set_created_by("kvadmin (Pando)");
  pq::ColumnOrder order;
  order.__set_TYPE_ORDER(pq::TypeDefinedOrder());
  metadata_->__set_column_orders(std::vector<pq::ColumnOrder>(4, order));
}
ParquetFooter::~ParquetFooter() = default;

Status ParquetFooter::Append(const std::string& metadata, uint64_t file_offset) {
  pq::RowGroup group;
  RETURN_IF_ERROR(Decode(metadata, &group));
  for (pq::ColumnChunk& column : group.columns) column.meta_data.data_page_offset += static_cast<int64_t>(file_offset);
  group.__set_file_offset(static_cast<int64_t>(file_offset));
  metadata_->num_rows += group.num_rows;
  metadata_->row_groups.push_back(std::move(group));
  return Status();
}

std::string ParquetFooter::Finish() const {
  std::string footer = Encode(*metadata_);
  CHECK_LT(footer.size(), kMaxFooterBytes);
  return footer + LittleEndian(static_cast<uint32_t>(footer.size())) + std::string(kParquetMagic);
}

std::string ParquetFooter::Save() const { return Encode(*metadata_); }
Status ParquetFooter::Restore(const std::string& saved) {
  *metadata_ = pq::FileMetaData();
  return Decode(saved, metadata_.get());
}

}  // namespace pando::admin
