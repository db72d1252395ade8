/**
 * The part of the metadata of Apache Parquet files that kvadmin writes. Names and numbers of fields and values are those
 * of the format's specification (github.com/apache/parquet-format). In a file it is encoded with the compact protocol.
 */
namespace cpp pando.parquet

/** How values are stored. */
enum Type {
  INT64 = 2
  BYTE_ARRAY = 6
}

/** What they mean, for readers that do not know LogicalType. */
enum ConvertedType {
  TIMESTAMP_MILLIS = 9
}

enum FieldRepetitionType {
  REQUIRED = 0
  OPTIONAL = 1
}

enum Encoding {
  PLAIN = 0
  RLE = 3
}

enum CompressionCodec {
  UNCOMPRESSED = 0
  ZSTD = 6
  LZ4_RAW = 7
}

enum PageType {
  DATA_PAGE = 0
}

struct MilliSeconds {}

union TimeUnit {
  1: MilliSeconds MILLIS
}

struct TimestampType {
  1: required bool isAdjustedToUTC
  2: required TimeUnit unit
}

union LogicalType {
  8: TimestampType TIMESTAMP
}

/** Of the values of a column in one row group. The bounds of BYTE_ARRAY may be cut short. */
struct Statistics {
  3: optional i64 null_count
  5: optional binary max_value
  6: optional binary min_value
  7: optional bool is_max_value_exact
  8: optional bool is_min_value_exact
}

/** The root, which has num_children, or a column. */
struct SchemaElement {
  1: optional Type type
  3: optional FieldRepetitionType repetition_type
  4: required string name
  5: optional i32 num_children
  6: optional ConvertedType converted_type
  10: optional LogicalType logicalType
}

struct DataPageHeader {
  1: required i32 num_values
  2: required Encoding encoding
  3: required Encoding definition_level_encoding
  4: required Encoding repetition_level_encoding
}

struct PageHeader {
  1: required PageType type
  2: required i32 uncompressed_page_size
  3: required i32 compressed_page_size
  /** CRC-32 of gzip, of the page as it is in the file, without this header. */
  4: optional i32 crc
  5: optional DataPageHeader data_page_header
}

struct ColumnMetaData {
  1: required Type type
  2: required list<Encoding> encodings
  3: required list<string> path_in_schema
  4: required CompressionCodec codec
  /** Nulls included. */
  5: required i64 num_values
  /** Both with the page headers. */
  6: required i64 total_uncompressed_size
  7: required i64 total_compressed_size
  9: required i64 data_page_offset
  12: optional Statistics statistics
}

struct ColumnChunk {
  /** 0: there is no copy of meta_data elsewhere. */
  2: required i64 file_offset = 0
  3: optional ColumnMetaData meta_data
}

struct SortingColumn {
  1: required i32 column_idx
  2: required bool descending
  3: required bool nulls_first
}

struct RowGroup {
  1: required list<ColumnChunk> columns
  2: required i64 total_byte_size
  3: required i64 num_rows
  4: optional list<SortingColumn> sorting_columns
  5: optional i64 file_offset
  6: optional i64 total_compressed_size
}

struct TypeDefinedOrder {}

union ColumnOrder {
  1: TypeDefinedOrder TYPE_ORDER
}

struct FileMetaData {
  1: required i32 version
  2: required list<SchemaElement> schema
  3: required i64 num_rows
  4: required list<RowGroup> row_groups
  6: optional string created_by
  7: optional list<ColumnOrder> column_orders
}
