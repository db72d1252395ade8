#include "src/topology/etcd_wire.h"

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>

#include "src/base/base64.h"

namespace pando {
namespace {

using Json = nlohmann::json;
using OrderedJson = nlohmann::ordered_json;

constexpr size_t kMaxQuotedBytes = 200;  // of an answer, in an error

std::string Number(Revision number) { return std::to_string(number); }

// The end of the range of all keys with this prefix, which ends in '/'.
std::string RangeEnd(const EtcdKeys& keys) {
  std::string end = keys.prefix;
  end.back() = '/' + 1;
  return end;
}

std::string Quoted(std::string_view text) {
  std::string quoted(text.substr(0, kMaxQuotedBytes));
  for (char& c : quoted) {
    if (c < 0x20 || c > 0x7e) c = '?';
  }
  return text.size() > kMaxQuotedBytes ? quoted + "..." : quoted;
}

Status Strange(std::string_view body, std::string_view why) {
  return Error(Code::kCorruption, "the answer is not one of etcd's ({}): {}", why, Quoted(body));
}

Result<Json> ParseObject(std::string_view body) {
  // It is as deeply nested as text from etcd is; the parser does not recurse.
  Json object = Json::parse(body, nullptr, false);
  if (!object.is_object()) return Strange(body, "it is not a JSON object");
  return object;
}

const Json* Find(const Json& object, const char* name) {
  auto it = object.find(name);
  return it == object.end() ? nullptr : &*it;
}

// A 64-bit number; 0 if it is missing. False if it is something else.
bool TakeNumber(const Json& object, const char* name, uint64_t* number) {
  *number = 0;
  const Json* field = Find(object, name);
  if (field == nullptr) return true;
  if (!field->is_string()) return false;
  const auto& text = field->get_ref<const std::string&>();
  auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), *number);
  return error == std::errc() && stop == text.data() + text.size();
}

bool TakeBool(const Json& object, const char* name, bool* value) {
  *value = false;
  const Json* field = Find(object, name);
  if (field == nullptr) return true;
  if (!field->is_boolean()) return false;
  *value = field->get<bool>();
  return true;
}

bool TakeBytes(const Json& object, const char* name, std::string* bytes) {
  bytes->clear();
  const Json* field = Find(object, name);
  if (field == nullptr) return true;
  if (!field->is_string()) return false;
  Result<std::string> decoded = Base64Decode(field->get_ref<const std::string&>());
  if (!decoded.ok()) return false;
  *bytes = *std::move(decoded);
  return true;
}

bool TakeHeader(const Json& object, EtcdHeader* header) {
  const Json* field = Find(object, "header");
  return field != nullptr && field->is_object() && TakeNumber(*field, "cluster_id", &header->cluster_id) &&
         TakeNumber(*field, "revision", &header->revision) && header->cluster_id != 0;
}

// A key-value pair. Every pair has a key of this topology and a revision.
bool TakeEntry(const EtcdKeys& keys, const Json& kv, TopologyEntry* entry) {
  if (!kv.is_object() || !TakeBytes(kv, "key", &entry->key) || !TakeBytes(kv, "value", &entry->value) ||
      !TakeNumber(kv, "mod_revision", &entry->revision) || entry->revision == 0 ||
      !entry->key.starts_with(keys.prefix)) {
    return false;
  }
  entry->key.erase(0, keys.prefix.size());
  return true;
}

bool TakeEntries(const EtcdKeys& keys, const Json& object, std::vector<TopologyEntry>* entries) {
  const Json* kvs = Find(object, "kvs");
  if (kvs == nullptr) return true;
  if (!kvs->is_array()) return false;
  for (const Json& kv : *kvs) {
    TopologyEntry entry;
    if (!TakeEntry(keys, kv, &entry)) return false;
    entries->push_back(std::move(entry));
  }
  return true;
}

bool TakeEvents(const EtcdKeys& keys, const Json& result, EtcdWatchLine* line) {
  const Json* events = Find(result, "events");
  if (events == nullptr) return true;
  if (!events->is_array()) return false;
  for (const Json& event : *events) {
    const Json* kv = event.is_object() ? Find(event, "kv") : nullptr;
    TopologyEntry entry;
    if (kv == nullptr || !TakeEntry(keys, *kv, &entry)) return false;
    const Json* type = Find(event, "type");
    line->deleted |= type != nullptr && *type == "DELETE";
    line->entries.push_back(std::move(entry));
  }
  return true;
}

// ET2
std::string RangeTransaction(const std::string& put_key, OrderedJson range) {
  OrderedJson request;
  const std::string key = Base64Encode(put_key);
  request["compare"] =
      OrderedJson::array({OrderedJson{{"key", key}, {"target", "VERSION"}, {"result", "LESS"}, {"version", "0"}}});
  request["success"] = OrderedJson::array({OrderedJson{{"requestPut", OrderedJson{{"key", key}}}}});
  request["failure"] = OrderedJson::array({OrderedJson{{"requestRange", std::move(range)}}});
  return request.dump();
}

}  // namespace

std::string EtcdSwapRequest(const EtcdKeys& keys, const std::string& key, Revision expected, const std::string& value) {
  OrderedJson request;
  const std::string full_key = Base64Encode(keys.prefix + key);
  request["compare"] = OrderedJson::array(
      {OrderedJson{{"key", full_key}, {"target", "MOD"}, {"result", "EQUAL"}, {"modRevision", Number(expected)}}});
  request["success"] =
      OrderedJson::array({OrderedJson{{"requestPut", OrderedJson{{"key", full_key}, {"value", Base64Encode(value)}}}}});
  return request.dump();
}

std::string EtcdReadRequest(const EtcdKeys& keys, const std::string& key) {
  return RangeTransaction(keys.prefix + key, OrderedJson{{"key", Base64Encode(keys.prefix + key)}});
}

std::string EtcdListRequest(const EtcdKeys& keys, size_t limit) {
  return RangeTransaction(keys.prefix, OrderedJson{{"key", Base64Encode(keys.prefix)},
                                                   {"rangeEnd", Base64Encode(RangeEnd(keys))},
                                                   {"limit", std::to_string(limit)}});
}

std::string EtcdRevisionRequest(const EtcdKeys& keys) {
  return RangeTransaction(keys.prefix, OrderedJson{{"key", Base64Encode(keys.prefix)}});
}

std::string EtcdChangedRequest(const EtcdKeys& keys, Revision from, size_t limit) {
  return RangeTransaction(keys.prefix, OrderedJson{{"key", Base64Encode(keys.prefix)},
                                                   {"rangeEnd", Base64Encode(RangeEnd(keys))},
                                                   {"limit", std::to_string(limit)},
                                                   {"minModRevision", Number(from)}});
}

std::string EtcdWatchRequest(const EtcdKeys& keys, Revision from) {
  OrderedJson request;
  request["createRequest"] = OrderedJson{
      {"key", Base64Encode(keys.prefix)}, {"rangeEnd", Base64Encode(RangeEnd(keys))}, {"startRevision", Number(from)}};
  return request.dump();
}

Result<EtcdSwapAnswer> DecodeEtcdSwap(std::string_view body) {
  ASSIGN_OR_RETURN(Json object, ParseObject(body));
  EtcdSwapAnswer answer;
  if (!TakeHeader(object, &answer.header)) return Strange(body, "it has no header");
  if (!TakeBool(object, "succeeded", &answer.succeeded)) return Strange(body, "\"succeeded\" is not true or false");
  if (answer.succeeded && answer.header.revision == 0) return Strange(body, "it has no revision");
  return answer;
}

Result<EtcdRangeAnswer> DecodeEtcdRange(const EtcdKeys& keys, std::string_view body) {
  ASSIGN_OR_RETURN(Json object, ParseObject(body));
  EtcdRangeAnswer answer;
  if (!TakeHeader(object, &answer.header)) return Strange(body, "it has no header");
  const Json* responses = Find(object, "responses");
  if (responses == nullptr || !responses->is_array() || responses->size() != 1 || !(*responses)[0].is_object()) {
    return Strange(body, "it has not one response");
  }
  const Json* range = Find((*responses)[0], "response_range");
  if (range == nullptr || !range->is_object()) return Strange(body, "its response is not that of a read");
  if (!TakeEntries(keys, *range, &answer.entries)) return Strange(body, "one of its keys is not valid");
  if (!TakeBool(*range, "more", &answer.more)) return Strange(body, "\"more\" is not true or false");
  if (!TakeNumber(*range, "count", &answer.count)) return Strange(body, "\"count\" is not a number");
  return answer;
}

Result<EtcdWatchLine> DecodeEtcdWatch(const EtcdKeys& keys, std::string_view text) {
  ASSIGN_OR_RETURN(Json object, ParseObject(text));
  EtcdWatchLine line;
  if (const Json* error = Find(object, "error"); error != nullptr) {
    line.canceled = true;
    line.reason = DecodeEtcdError(error->is_object() ? error->dump(-1, ' ', false, Json::error_handler_t::replace)
                                                     : std::string(text))
                      .message;
    return line;
  }
  const Json* result = Find(object, "result");
  if (result == nullptr || !result->is_object()) return Strange(text, "it has no result");
  if (!TakeHeader(*result, &line.header)) return Strange(text, "it has no header");
  if (!TakeBool(*result, "created", &line.created) || !TakeBool(*result, "canceled", &line.canceled) ||
      !TakeNumber(*result, "compact_revision", &line.compacted)) {
    return Strange(text, "a field has the wrong type");
  }
  if (const Json* reason = Find(*result, "cancel_reason"); reason != nullptr && reason->is_string()) {
    line.reason = Quoted(reason->get_ref<const std::string&>());
  }
  if (!TakeEvents(keys, *result, &line)) return Strange(text, "one of its events is not valid");
  return line;
}

bool EtcdError::IsRefusal() const {
  constexpr int kRefusals[] = {
      3,   // invalid argument
      7,   // permission denied
      8,   // the database is full, or there are too many requests
      12,  // unimplemented
      16,  // not authenticated
  };
  return std::find(std::begin(kRefusals), std::end(kRefusals), code) != std::end(kRefusals);
}

EtcdError DecodeEtcdError(std::string_view body) {
  EtcdError error;
  error.message = Quoted(body);
  const Json object = Json::parse(body, nullptr, false);
  if (!object.is_object()) return error;
  const Json* message = Find(object, "message");
  const Json* code = Find(object, "code");
  if (code == nullptr) code = Find(object, "grpc_code");
  if (message == nullptr || !message->is_string() || code == nullptr || !code->is_number_integer()) return error;
  error.message = Quoted(message->get_ref<const std::string&>());
  error.code = code->get<int>();
  return error;
}

}  // namespace pando
