#include "tools/kvadmin/range_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>

#include "tools/common/table.h"

namespace pando::admin {

namespace {

using Json = nlohmann::ordered_json;

constexpr uint64_t kMaxCountedSize = 1u << 20;  // larger values count as this size
constexpr size_t kPrefixColumns = 40;           // of a prefix in a table or a picture
constexpr size_t kBarColumns = 40;

double Share(uint64_t part, uint64_t whole) {
  return whole == 0 ? 0 : static_cast<double>(part) / static_cast<double>(whole);
}

std::string SizeRange(const SizeHistogram::Bucket& bucket) {
  return bucket.least == bucket.most ? fmt::format("{}", bucket.least)
                                     : fmt::format("{} to {}", bucket.least, bucket.most);
}

std::string RangeText(const Range& range, Encoding encoding) {
  std::string text;
  const auto add = [&](std::string_view name, const std::string& key) {
    if (!key.empty())
      text += fmt::format("{}{} \"{}\"", text.empty() ? "" : ", ", name, Printable(key, encoding, kPrefixColumns));
  };
  add("prefix", range.prefix);
  add("from", range.start);
  add("up to", range.end);
  return text.empty() ? "the whole store" : text;
}

std::string XmlText(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '"': out += "&quot;"; break;
      default: out += c;
    }
  }
  return out;
}

// The line below the sums that says what the sizes are of.
std::string MeasuredText(const RangeReport& report) {
  if (!report.sampled) return "of all values";
  return fmt::format("of a sample of {} values", report.sizes.records());
}

Json SumsJson(const RangeAggregates& sums) { return Json{{"records", sums.count}, {"bytes", sums.bytes}}; }

// Horizontal bars with a title, from `top` on; sets it to what follows.
struct Bar {
  std::string label, value;
  double share = 0;  // of the longest
};
std::string Bars(const std::string& title, const std::vector<Bar>& bars, int* top) {
  constexpr int kBarHeight = 18, kStep = 22, kLeft = 330, kWidth = 360;
  std::string svg = fmt::format("<text x=\"20\" y=\"{}\" font-weight=\"bold\">{}</text>\n", *top + 14, XmlText(title));
  *top += 26;
  for (const Bar& bar : bars) {
    svg += fmt::format(
        "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text><rect x=\"{}\" y=\"{}\" width=\"{:.1f}\" height=\"{}\" "
        "fill=\"#4878a8\"/><text x=\"{:.1f}\" y=\"{}\">{}</text>\n",
        kLeft - 8, *top + 13, XmlText(bar.label), kLeft, *top, std::max(bar.share * kWidth, 0.5), kBarHeight,
        kLeft + bar.share * kWidth + 8, *top + 13, XmlText(bar.value));
    *top += kStep;
  }
  *top += 20;
  return svg;
}

}  // namespace

void SizeHistogram::Add(uint64_t size, uint64_t records) {
  const uint64_t counted = std::min(size, kMaxCountedSize);
  if (counts_.size() <= counted) counts_.resize(std::bit_ceil(counted + 1));
  counts_[counted] += records;
  records_ += records;
  bytes_ += size * records;
  max_ = std::max(max_, size);
}

uint64_t SizeHistogram::Percentile(double percent) const {
  const auto wanted = static_cast<uint64_t>(std::ceil(percent / 100 * static_cast<double>(records_)));
  uint64_t seen = 0;
  for (uint64_t size = 0; size < counts_.size(); ++size) {
    seen += counts_[size];
    if (seen >= wanted && seen > 0) return size;
  }
  return max_;
}

std::vector<SizeHistogram::Bucket> SizeHistogram::Buckets() const {
  std::vector<Bucket> buckets;
  for (uint64_t size = 0; size < counts_.size(); ++size) {
    const uint64_t least = std::bit_floor(size);  // of 0: 0
    if (buckets.empty() || buckets.back().least != least)
      buckets.push_back({least, least == 0 ? 0 : 2 * least - 1, 0, 0});
    buckets.back().records += counts_[size];
    buckets.back().bytes += size * counts_[size];
  }
  const auto empty = [](const Bucket& bucket) { return bucket.records == 0; };
  while (!buckets.empty() && empty(buckets.back())) buckets.pop_back();
  buckets.erase(buckets.begin(), std::find_if_not(buckets.begin(), buckets.end(), empty));
  return buckets;
}

std::string GroupOf(std::string_view key, std::string_view prefix, std::string_view delimiter, size_t bytes) {
  const size_t from = std::min(prefix.size(), key.size());
  const size_t at = delimiter.empty() ? std::string_view::npos : key.find(delimiter, from);
  return std::string(key.substr(0, at == std::string_view::npos ? from + bytes : at + delimiter.size()));
}

std::string AfterPrefix(std::string prefix) {
  while (!prefix.empty() && prefix.back() == '\xff') prefix.pop_back();
  if (!prefix.empty()) prefix.back() = static_cast<char>(static_cast<unsigned char>(prefix.back()) + 1);
  return prefix;
}

std::string ReportTable(const RangeReport& report, Encoding encoding) {
  const SizeHistogram& sizes = report.sizes;
  std::string out =
      fmt::format("range         {}\nrecords       {}\nbytes         {} ({}), keys and values\ncontent hash  {:016x}\n",
                  RangeText(report.range, encoding), report.sums.count, report.sums.bytes,
                  tools::HumanBytes(static_cast<double>(report.sums.bytes)), report.sums.content_hash);
  if (!report.prefixes.empty()) {
    tools::Table table({"PREFIX", "RECORDS", "BYTES", "SHARE"});
    const auto row = [&](const std::string& name, const RangeAggregates& sums) {
      table.Row({name, std::to_string(sums.count), std::to_string(sums.bytes),
                 fmt::format("{:.1f}%", 100 * Share(sums.bytes, report.sums.bytes))});
    };
    for (const auto& [prefix, sums] : report.prefixes) row(Printable(prefix, encoding, kPrefixColumns), sums);
    const uint64_t others = report.prefixes_found - report.prefixes.size();
    if (others > 0) row(fmt::format("({} other prefixes)", others), report.other_prefixes);
    if (!report.looked_up_to.empty()) row("(not looked at, see below)", report.not_looked_at);
    out += "\n" + table.Render();
    if (!report.looked_up_to.empty()) {
      out += fmt::format("prefixes were looked for up to the key {}: --max-prefixes looks further\n",
                         Printable(report.looked_up_to, encoding, kPrefixColumns));
    }
  }
  if (sizes.records() == 0) return out;
  out += fmt::format("\nsizes {}: mean {:.0f}, p50 {}, p90 {}, p99 {}, largest {}\n", MeasuredText(report),
                     static_cast<double>(sizes.bytes()) / static_cast<double>(sizes.records()), sizes.Percentile(50),
                     sizes.Percentile(90), sizes.Percentile(99), sizes.max());
  const std::vector<SizeHistogram::Bucket> buckets = sizes.Buckets();
  uint64_t most = 1;
  for (const auto& bucket : buckets) most = std::max(most, bucket.records);
  tools::Table table({"VALUE BYTES", "RECORDS", "SHARE", ""});
  for (const auto& bucket : buckets) {
    const auto length = static_cast<size_t>(std::ceil(Share(bucket.records, most) * kBarColumns));
    table.Row({SizeRange(bucket), std::to_string(bucket.records),
               fmt::format("{:.1f}%", 100 * Share(bucket.records, sizes.records())), std::string(length, '#')});
  }
  return out + table.Render();
}

Json ReportJson(const RangeReport& report) {
  Json j;
  const Range& range = report.range;
  for (const auto& [name, key] : {std::pair("start", &range.start), {"end", &range.end}, {"prefix", &range.prefix}}) {
    if (!key->empty()) SetBytes(&j, name, *key);
  }
  if (report.version != 0) j["snapshot_version"] = std::to_string(static_cast<uint64_t>(report.version));
  j["records"] = report.sums.count;
  j["bytes"] = report.sums.bytes;
  j["content_hash"] = fmt::format("{:016x}", report.sums.content_hash);
  j["prefixes"] = Json::array();
  for (const auto& [prefix, sums] : report.prefixes) {
    Json one;
    SetBytes(&one, "prefix", prefix);
    one.update(SumsJson(sums));
    j["prefixes"].push_back(std::move(one));
  }
  j["other_prefixes"] = SumsJson(report.other_prefixes);
  j["other_prefixes"]["prefixes"] = report.prefixes_found - report.prefixes.size();
  if (!report.looked_up_to.empty()) {
    j["not_looked_at"] = SumsJson(report.not_looked_at);
    SetBytes(&j["not_looked_at"], "from", report.looked_up_to);
  }
  const SizeHistogram& sizes = report.sizes;
  Json& values = j["value_bytes"];
  values = Json{{"measured", sizes.records()}, {"sampled", report.sampled}, {"total", sizes.bytes()}};
  for (const auto& [name, percent] : {std::pair("p50", 50), {"p90", 90}, {"p99", 99}}) {
    values[name] = sizes.Percentile(percent);
  }
  values["largest"] = sizes.max();
  values["histogram"] = Json::array();
  for (const auto& bucket : sizes.Buckets()) {
    values["histogram"].push_back(
        Json{{"from", bucket.least}, {"to", bucket.most}, {"records", bucket.records}, {"bytes", bucket.bytes}});
  }
  return j;
}

std::string ReportSvg(const RangeReport& report, Encoding encoding) {
  int top = 20;
  std::string body = fmt::format("<text x=\"20\" y=\"{}\" font-size=\"16\">{}: {} records, {}</text>\n", top + 14,
                                 XmlText(RangeText(report.range, encoding)), report.sums.count,
                                 tools::HumanBytes(static_cast<double>(report.sums.bytes)));
  top += 44;
  if (!report.prefixes.empty()) {
    std::vector<Bar> bars;
    const auto longest = static_cast<double>(std::max<uint64_t>(report.prefixes.front().sums.bytes, 1));
    for (const auto& [prefix, sums] : report.prefixes) {
      bars.push_back({Printable(prefix, encoding, kPrefixColumns),
                      fmt::format("{} ({:.1f}%)", tools::HumanBytes(static_cast<double>(sums.bytes)),
                                  100 * Share(sums.bytes, report.sums.bytes)),
                      static_cast<double>(sums.bytes) / longest});
    }
    body += Bars("Bytes by prefix", bars, &top);
  }
  const std::vector<SizeHistogram::Bucket> buckets = report.sizes.Buckets();
  if (!buckets.empty()) {
    std::vector<Bar> bars;
    uint64_t most = 1;
    for (const auto& bucket : buckets) most = std::max(most, bucket.records);
    for (const auto& bucket : buckets) {
      bars.push_back({SizeRange(bucket),
                      fmt::format("{} ({:.1f}%)", bucket.records, 100 * Share(bucket.records, report.sizes.records())),
                      Share(bucket.records, most)});
    }
    body += Bars("Records by bytes of the value, " + MeasuredText(report), bars, &top);
  }
  return fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"900\" height=\"{}\" font-family=\"sans-serif\" "
      "font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{}</svg>\n",
      top, body);
}

}  // namespace pando::admin
