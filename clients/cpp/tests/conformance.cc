// Runs the conformance suite (clients/conformance/README.md) with the C++ client:
//   pando_conformance --cases DIR --addresses HOST:PORT,HOST:PORT --control HOST:PORT [--only NAME]
#include <pando/client.h>
#include <poll.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <future>
#include <iostream>
#include <list>
#include <mutex>
#include <set>
#include <sstream>
#include <thread>

#include "conformance_values.h"
#include "socket.h"

namespace conformance {
namespace {

using namespace pando::client;
using detail::Clock;

// -- results as JSON -------------------------------------------------------------------------------------------------

Json to_json(const std::optional<Record>& record) {
  if (!record) return nullptr;
  return {{"value", bytes(record->value)},
          {"version", record->version},
          {"expires_at_ms", record->expires_at ? record->expires_at->time_since_epoch().count() : 0}};
}

Json to_json(const WriteResult& result) {
  return {{"applied", result.applied},
          {"version", result.version},
          {"existed", result.existed},
          {"current", to_json(result.current)},
          {"previous", to_json(result.previous)},
          {"previous_omitted", result.previous_omitted},
          {"number", nullptr}};
}

std::string kind_of(Code code) {
  switch (code) {
    case Code::kBadRequest:
    case Code::kTooLarge:
    case Code::kBadCursor:
    case Code::kTokenMismatch: return "BadRequest";
    case Code::kTransport:
    case Code::kNotMaster:
    case Code::kStaleMap:
    case Code::kMoving:
    case Code::kOverloaded:
    case Code::kUnavailable:
    case Code::kTooStale: return "Unavailable";
    default: return "PandoError";
  }
}

// By the class, which is what callers tell apart.
std::string kind_of(const Error& error) {
  if (dynamic_cast<const BadRequestError*>(&error) != nullptr) return "BadRequest";
  if (dynamic_cast<const UnavailableError*>(&error) != nullptr) return "Unavailable";
  if (dynamic_cast<const DeadlineError*>(&error) != nullptr) return "Deadline";
  if (dynamic_cast<const SnapshotGoneError*>(&error) != nullptr) return "SnapshotGone";
  if (dynamic_cast<const FeedGoneError*>(&error) != nullptr) return "FeedGone";
  if (dynamic_cast<const SessionLostError*>(&error) != nullptr) return "SessionLost";
  if (dynamic_cast<const DiskFullError*>(&error) != nullptr) return "DiskFull";
  if (dynamic_cast<const CorruptError*>(&error) != nullptr) return "Corrupt";
  if (dynamic_cast<const InternalError*>(&error) != nullptr) return "Internal";
  return "PandoError";
}

Json to_json(const ErrorInfo& info) {
  return {{"code", name_of(info.code)},  {"number", static_cast<std::int32_t>(info.code)},
          {"message", info.message},     {"applied", std::string(name_of(info.applied))},
          {"retryable", info.retryable}, {"kind", kind_of(info.code)}};
}

Json to_json(const Error& error) {
  Json result = to_json(error.info());
  result["kind"] = kind_of(error);
  result["tries"] = error.tries();
  result["cause"] = error.cause() ? to_json(*error.cause()) : Json(nullptr);
  return result;
}

Json to_json(const OpResult& op) {
  Json result = to_json(static_cast<const WriteResult&>(op));
  if (op.number) result["number"] = *op.number;
  result["withheld"] = op.withheld;
  result["error"] = op.error ? to_json(*op.error) : Json(nullptr);
  return result;
}

Json rows_to_json(const std::vector<Row>& rows, std::int64_t pages, const std::string& cursor) {
  Json list = Json::array(), keys = Json::array();
  for (const Row& row : rows) {
    keys.push_back(bytes(row.key));
    list.push_back({{"key", bytes(row.key)},
                    {"value", bytes(row.value)},
                    {"version", row.version},
                    {"expires_at_ms", row.expires_at ? row.expires_at->time_since_epoch().count() : 0},
                    {"removed", row.removed},
                    {"value_bytes", row.value_bytes ? Json(*row.value_bytes) : Json(nullptr)}});
  }
  return {{"rows", list}, {"keys", keys}, {"count", rows.size()}, {"pages", pages}, {"cursor", bytes(cursor)}};
}

// -- arguments -------------------------------------------------------------------------------------------------------

std::string text(const Json& args, const char* name) { return args.contains(name) ? to_bytes(args[name]) : ""; }

template <class Number>
Number number(const Json& args, const char* name, Number otherwise = 0) {
  return args.contains(name) ? args[name].get<Number>() : otherwise;
}

bool flag(const Json& args, const char* name, bool otherwise = false) { return args.value(name, otherwise); }

std::optional<milliseconds> timeout(const Json& args) {
  if (!args.contains("timeout_ms")) return std::nullopt;
  return milliseconds(args["timeout_ms"].get<std::int64_t>());
}

std::int32_t level_number(const Json& args, const char* name) {
  static const std::map<std::string, std::int32_t> kLevels = {
      {"", 0}, {"ONE", 1}, {"QUORUM", 2}, {"ALL", 3}, {"LINEARIZABLE", 4}, {"BOUNDED", 5}, {"SESSION", 6}};
  return kLevels.at(text(args, name));
}

// The cases also try levels at calls for which the types of this client do not allow them.
ReadLevel read_level(const Json& args, const char* name = "level") {
  return static_cast<ReadLevel>(level_number(args, name));
}

WriteLevel write_level(const Json& args, const char* name = "level") {
  return static_cast<WriteLevel>(level_number(args, name));
}

ReadOptions read_options(const Json& args) {
  return {.level = read_level(args),
          .max_staleness = milliseconds(number<std::int64_t>(args, "max_staleness_ms")),
          .timeout = timeout(args)};
}

Condition condition(const Json& args) {
  Condition result;
  if (args.contains("if_version")) result.version = args["if_version"].get<std::int64_t>();
  if (args.contains("if_value")) result.value = to_bytes(args["if_value"]);
  if (args.contains("if_exists")) result.exists = args["if_exists"].get<bool>();
  return result;
}

Expiry expiry(const Json& args) {
  if (args.contains("ttl_ms")) return Expiry::after(milliseconds(args["ttl_ms"].get<std::int64_t>()));
  if (args.contains("expires_at_ms")) {
    return Expiry::at(TimePoint(milliseconds(args["expires_at_ms"].get<std::int64_t>())));
  }
  return text(args, "ttl") == "clear" ? Expiry::never() : Expiry::keep();
}

Range range(const Json& args) { return {text(args, "start"), text(args, "end"), text(args, "prefix")}; }

Options client_options(const Json& args) {
  Options options;
  options.timeout = timeout(args).value_or(options.timeout);
  options.pool_size = number<std::size_t>(args, "pool_size", options.pool_size);
  options.client_name = text(args, "client_name");
  options.max_staleness = milliseconds(number<std::int64_t>(args, "max_staleness_ms"));
  options.read_level = read_level(args, "read_level");
  options.write_level = write_level(args, "write_level");
  return options;
}

Batch batch(const Json& args) {
  Batch result;
  for (const Json& op : args.value("ops", Json::array())) {
    const std::string kind = op.begin().key();
    const Json& of = op.begin().value();
    const Batch::OpOptions options{condition(of), expiry(of), flag(of, "return_previous")};
    if (kind == "put") result.put(text(of, "key"), text(of, "value"), options);
    if (kind == "remove") result.remove(text(of, "key"), options);
    if (kind == "increment") result.increment(text(of, "key"), number<std::int64_t>(of, "delta", 1), options);
    if (kind == "touch") result.touch(text(of, "key"), options.expiry, options.condition);
  }
  for (const Json& of : args.value("conditions", Json::array())) result.require(text(of, "key"), condition(of));
  return result.all_or_nothing(flag(args, "all_or_nothing"));
}

// -- the control server ----------------------------------------------------------------------------------------------

Json control(const std::string& address, const Json& request) {
  const auto deadline = Clock::now() + std::chrono::seconds(120);
  std::string line;
  try {
    detail::Socket socket(detail::parse_address(address), deadline);
    socket.write_all(request.dump() + "\n", deadline);
    char buffer[4096];
    while (line.empty() || line.back() != '\n') line.append(buffer, socket.read_some(buffer, sizeof buffer, deadline));
  } catch (const detail::Failure& failure) {
    throw Mismatch("the control server: " + failure.info.message);
  }
  Json answer = Json::parse(line);
  if (!answer.value("ok", false)) throw Mismatch("the control server: " + answer.value("error", line));
  return evaluate(answer, {});  // bytes come as {"hex": ...}
}

// -- one case --------------------------------------------------------------------------------------------------------

struct Arguments {
  std::string cases, control, only;
  std::vector<std::string> addresses;
};

class Case {
 public:
  Case(const Json& definition, const Arguments& arguments)
      : definition_(definition), control_(arguments.control), addresses_(arguments.addresses) {}

  // Throws Mismatch.
  void run();
  // Makes the calls that are under way fail.
  void abort() {
    aborted_ = true;
    const std::lock_guard lock(mutex_);
    for (Client& client : clients_) client.close();
  }

 private:
  Client* add_client(const std::string& name, const Json& args);
  Store& store(const Json& step);
  Snapshot& snapshot(const Json& args);
  Reader& reader(const Json& step, const Json& args);

  void run_steps(const Json& steps, Variables* variables);
  void run_step(const Json& step, const std::string& operation, Variables* variables);
  Json execute(const Json& step, const std::string& operation, Variables* variables);
  Json write(Store& to, const std::string& operation, const Json& args);
  Json read_range(const Json& step, const std::string& operation, const Json& args);
  Json make(const Json& step, const std::string& operation, const Json& args);
  Json open_snapshot(Store& at, const Json& args);
  Json scan(Reader& from, const Json& args, bool one_page);
  Json watch(Store& at, const Json& args);
  Json server_info();
  void fill(Store& at, const Json& args);
  void repeat(const Json& args, Variables* variables);
  void parallel(const Json& args, const Variables& variables);

  const Json& definition_;
  const std::string control_;
  std::vector<std::string> addresses_;
  std::atomic<bool> aborted_{false};
  std::mutex mutex_;  // of what follows; objects stay until the end of the case
  std::list<Client> clients_;
  std::list<Session> session_list_;
  std::map<std::string, Client*> client_names_;
  std::map<std::string, Store*> stores_;
  std::map<std::string, std::shared_ptr<Snapshot>> snapshots_;
};

bool has_control(const Json& value) {
  if (!value.is_structured()) return false;
  if (value.is_object() && value.contains("control")) return true;
  return std::any_of(value.begin(), value.end(), has_control);
}

void Case::run() {
  const bool proxy = definition_.value("through", "") == "proxy";
  const auto heal = [&] {
    if (proxy || has_control(definition_["steps"])) control(control_, {{"action", "heal"}});
  };
  try {
    if (proxy) addresses_ = {control(control_, {{"action", "proxy"}})["address"].get<std::string>()};
    add_client("", evaluate(definition_.value("client", Json::object()), {}));
    Variables variables;
    run_steps(definition_["steps"], &variables);
  } catch (...) {
    heal();
    throw;
  }
  snapshots_.clear();
  heal();
}

Client* Case::add_client(const std::string& name, const Json& args) {
  std::vector<std::string> addresses = addresses_;
  if (args.contains("addresses")) {
    addresses.clear();
    for (const Json& address : args["addresses"]) addresses.push_back(to_bytes(address));
  }
  const std::lock_guard lock(mutex_);
  Client& client = clients_.emplace_back(addresses, client_options(args));
  stores_[name] = client_names_[name] = &client;
  return &client;
}

Store& Case::store(const Json& step) {
  const std::lock_guard lock(mutex_);
  const auto found = stores_.find(step.value("on", ""));
  if (found == stores_.end()) throw Mismatch("there is no client or session " + step.value("on", ""));
  return *found->second;
}

Snapshot& Case::snapshot(const Json& args) {
  const std::lock_guard lock(mutex_);
  const auto found = snapshots_.find(text(args, "snapshot"));
  if (found == snapshots_.end()) throw Mismatch("there is no snapshot " + text(args, "snapshot"));
  return *found->second;
}

Reader& Case::reader(const Json& step, const Json& args) {
  if (args.contains("snapshot")) return snapshot(args);
  return store(step);
}

void Case::run_steps(const Json& steps, Variables* variables) {
  int count = 0;
  for (const Json& step : steps) {
    ++count;
    std::string operation;
    for (const auto& item : step.items()) {
      static const std::set<std::string> kOthers = {"expect", "error", "save", "on"};
      if (!kOthers.contains(item.key())) operation = item.key();
    }
    try {
      if (aborted_) throw Mismatch("the case took too long");
      run_step(step, operation, variables);
    } catch (const std::exception& error) {
      throw Mismatch("step " + std::to_string(count) + " (" + operation + "): " + error.what());
    }
  }
}

void Case::run_step(const Json& step, const std::string& operation, Variables* variables) {
  Json result;
  const char* what = "expect";
  try {
    result = execute(step, operation, variables);
    if (step.contains("error")) {
      throw Mismatch("expected the error " + show(step["error"]) + ", got " + show(result));
    }
  } catch (const Error& error) {
    what = "error";
    result = to_json(error);
    if (!step.contains("error")) throw Mismatch("got the error " + show(result));
  }
  if (step.contains(what) && !matches(step[what], result, *variables)) {
    throw Mismatch("expected " + show(step[what]) + ", got " + show(result));
  }
  if (!step.contains("save")) return;
  for (const auto& item : step["save"].items()) (*variables)[item.key()] = part_of(result, item.value());
}

Json Case::execute(const Json& step, const std::string& operation, Variables* variables) {
  const Json& written = step[operation];
  if (operation == "control") return control(control_, substitute(written, *variables));
  if (operation == "repeat") return repeat(written, variables), Json::object();
  if (operation == "parallel") return parallel(written, *variables), Json::object();
  const Json args = evaluate(written, *variables);
  static const std::set<std::string> kWrites = {"put", "remove", "increment", "touch", "write_batch", "delete_range"};
  if (kWrites.contains(operation)) return write(store(step), operation, args);
  if (operation == "get") return to_json(reader(step, args).get(text(args, "key"), read_options(args)));
  if (operation == "multi_get") {
    std::vector<std::string> keys;
    for (const Json& key : args["keys"]) keys.push_back(to_bytes(key));
    Json records = Json::array();
    for (const auto& record : reader(step, args).multi_get(keys, read_options(args)))
      records.push_back(to_json(record));
    return {{"records", records}};
  }
  if (operation == "sleep_ms") {
    std::this_thread::sleep_for(milliseconds(args.get<std::int64_t>()));
    return Json::object();
  }
  if (operation == "watch") return watch(store(step), args);
  if (operation == "server_info") return server_info();
  if (operation == "fill") return fill(store(step), args), Json::object();
  static const std::set<std::string> kRanges = {"scan", "scan_page", "count", "aggregate", "split_range"};
  if (kRanges.contains(operation)) return read_range(step, operation, args);
  return make(step, operation, args);
}

Json Case::write(Store& to, const std::string& operation, const Json& args) {
  const std::string key = text(args, "key");
  const WriteLevel level = write_level(args);
  if (operation == "put") {
    return to_json(to.put(key, text(args, "value"),
                          {.condition = condition(args),
                           .expiry = expiry(args),
                           .return_previous = flag(args, "return_previous"),
                           .level = level,
                           .timeout = timeout(args)}));
  }
  if (operation == "remove") {
    return to_json(to.remove(key, {.condition = condition(args),
                                   .return_previous = flag(args, "return_previous"),
                                   .level = level,
                                   .timeout = timeout(args)}));
  }
  if (operation == "increment") {
    const auto delta = number<std::int64_t>(args, "delta", 1);
    return {{"number", to.increment(key, delta, {.expiry = expiry(args), .level = level, .timeout = timeout(args)})}};
  }
  if (operation == "touch") {
    return to_json(
        to.touch(key, expiry(args), {.condition = condition(args), .level = level, .timeout = timeout(args)}));
  }
  if (operation == "delete_range") {
    return {{"removed", to.delete_range(range(args), {.page_rows = number<std::int32_t>(args, "page_rows"),
                                                      .max_version = number<std::int64_t>(args, "max_version"),
                                                      .level = level,
                                                      .timeout = timeout(args)})}};
  }
  const BatchResult done = to.write_batch(batch(args), {.level = level, .timeout = timeout(args)});
  Json results = Json::array(), failed = Json::array();
  for (const OpResult& result : done.results) results.push_back(to_json(result));
  for (const FailedCondition& condition : done.failed_conditions) {
    failed.push_back({{"index", condition.index}, {"current", to_json(condition.current)}});
  }
  return {{"results", results}, {"failed_conditions", failed}};
}

Json Case::read_range(const Json& step, const std::string& operation, const Json& args) {
  Reader& from = reader(step, args);
  if (operation == "count") return {{"count", from.count(range(args), read_options(args))}};
  if (operation == "aggregate") {
    const Aggregate sum = from.aggregate(range(args), read_options(args));
    return {{"count", sum.count}, {"bytes", sum.bytes}, {"content_hash", sum.content_hash}};
  }
  if (operation == "split_range") {
    Json parts = Json::array();
    std::int64_t total = 0;
    for (const RangePart& part :
         from.split_range(range(args), number<std::int32_t>(args, "parts"), read_options(args))) {
      parts.push_back(
          {{"start", bytes(part.start)}, {"end", bytes(part.end)}, {"count", part.count}, {"bytes", part.bytes}});
      total += part.count;
    }
    return {{"parts", parts}, {"total", total}};
  }
  return scan(from, args, operation == "scan_page");
}

Json Case::scan(Reader& from, const Json& args, bool one_page) {
  const Range keys = range(args);
  ScanOptions options{.start = keys.start,
                      .end = keys.end,
                      .prefix = keys.prefix,
                      .reverse = flag(args, "reverse"),
                      .keys_only = flag(args, "keys_only"),
                      .sizes_only = flag(args, "sizes_only"),
                      .page_rows = number<std::int32_t>(args, "page_rows"),
                      .slices = number<std::int32_t>(args, "slices"),
                      .slice = number<std::int32_t>(args, "slice"),
                      .cursor = text(args, "cursor"),
                      .level = read_level(args),
                      .max_staleness = milliseconds(number<std::int64_t>(args, "max_staleness_ms")),
                      .timeout = timeout(args)};
  if (args.contains("limit")) options.limit = args["limit"].get<std::int64_t>();
  if (args.contains("since")) options.since = snapshot({{"snapshot", args["since"]}}).token();
  if (one_page) {
    const ScanPage page = from.scan_page(options);
    return rows_to_json(page.rows, 1, page.cursor);
  }
  Scan scan = from.scan(std::move(options));
  std::vector<Row> rows;
  for (Row& row : scan) rows.push_back(std::move(row));
  return rows_to_json(rows, scan.pages(), scan.cursor());
}

Json Case::watch(Store& at, const Json& args) {
  const auto most = number<std::size_t>(args, "max_changes", 1'000'000);
  const auto deadline = Clock::now() + milliseconds(number<std::int64_t>(args, "wait_ms", 1000));
  Watch watch = at.watch(text(args, "prefix"), {.after_version = number<std::int64_t>(args, "after_version"),
                                                .position = text(args, "position"),
                                                .timeout = timeout(args)});
  Json changes = Json::array();
  do {
    const auto left = std::chrono::ceil<milliseconds>(deadline - Clock::now());
    for (const Change& change : watch.poll(most - changes.size(), std::max(left, milliseconds(0)))) {
      changes.push_back({{"key", bytes(change.key)}, {"version", change.version}, {"removed", change.removed}});
    }
  } while (changes.size() < most && Clock::now() < deadline);
  return {{"changes", changes}, {"position", bytes(watch.position())}};
}

Json Case::server_info() {
  const ServerInfo info = client_names_.at("")->server_info();
  return {{"server_version", info.server_version},
          {"api_version", info.api_version},
          {"cluster_id", info.cluster_id},
          {"features", info.features},
          {"limits",
           {{"max_key_bytes", info.max_key_bytes},
            {"max_value_bytes", info.max_value_bytes},
            {"max_batch_ops", info.max_batch_ops},
            {"max_batch_bytes", info.max_batch_bytes},
            {"max_multi_get_keys", info.max_multi_get_keys},
            {"max_frame_bytes", info.max_frame_bytes},
            {"max_scan_rows", info.max_scan_rows},
            {"max_scan_bytes", info.max_scan_bytes}}}};
}

void Case::fill(Store& at, const Json& args) {
  const auto count = number<std::int64_t>(args, "count");
  const auto digits = number<std::size_t>(args, "digits", 4);
  Batch batch;
  std::size_t bytes = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    std::string name = std::to_string(i);
    const std::string value = args.contains("value") ? text(args, "value") : name;
    if (name.size() < digits) name.insert(0, digits - name.size(), '0');
    batch.put(text(args, "prefix") + name, value);
    bytes += name.size() + value.size();
    if (batch.ops().size() == 500 || bytes > 1'000'000 || i + 1 == count) {
      if (!at.write_batch(batch).all_applied()) throw Mismatch("not all records were written");
      batch = Batch();
      bytes = 0;
    }
  }
}

Json Case::open_snapshot(Store& at, const Json& args) {
  SnapshotOptions options{.renew = flag(args, "renew", true), .timeout = timeout(args)};
  options.ttl = milliseconds(number<std::int64_t>(args, "ttl_ms", options.ttl.count()));
  const auto opened = std::make_shared<Snapshot>(at.snapshot(options));
  const std::lock_guard lock(mutex_);
  snapshots_[text(args, "as")] = opened;
  return {{"version", opened->version()}, {"expires_at_ms", opened->expires_at().time_since_epoch().count()}};
}

// What makes and ends clients, sessions and snapshots.
Json Case::make(const Json& step, const std::string& operation, const Json& args) {
  if (operation == "snapshot") return open_snapshot(store(step), args);
  if (operation == "renew") {
    Snapshot& of = snapshot(args);
    of.renew(milliseconds(number<std::int64_t>(args, "ttl_ms")), {.timeout = timeout(args)});
    return {{"version", of.version()}, {"expires_at_ms", of.expires_at().time_since_epoch().count()}};
  }
  if (operation == "release") return {{"existed", snapshot(args).release({.timeout = timeout(args)})}};
  if (operation == "client") {
    add_client(text(args, "as"), args);
  } else if (operation == "session") {
    const std::lock_guard lock(mutex_);
    const auto client = client_names_.find(step.value("on", ""));
    stores_[text(args, "as")] = &session_list_.emplace_back(client->second->session());
  } else if (operation == "close") {
    const std::lock_guard lock(mutex_);
    client_names_.at(text(args, "client"))->close();
  } else {
    throw Mismatch("this runner does not know the operation");
  }
  return Json::object();
}

void Case::repeat(const Json& args, Variables* variables) {
  for (std::int64_t i = 0; i < args["times"].get<std::int64_t>(); ++i) {
    (*variables)["i"] = i;
    run_steps(args["steps"], variables);
  }
}

void Case::parallel(const Json& args, const Variables& variables) {
  std::vector<std::future<void>> branches;
  const auto start = [&](const Json& steps, std::size_t i) {
    branches.push_back(std::async(std::launch::async, [this, &steps, own = variables, i]() mutable {
      own["i"] = i;
      run_steps(steps, &own);
    }));
  };
  if (args.contains("branches")) {
    for (const Json& steps : args["branches"]) start(steps, branches.size());
  } else {
    for (std::size_t i = 0; i < args["times"].get<std::size_t>(); ++i) start(args["steps"], i);
  }
  for (std::future<void>& branch : branches) branch.wait();
  for (std::future<void>& branch : branches) branch.get();
}

// -- all cases -------------------------------------------------------------------------------------------------------

// Empty, or what is wrong.
std::string run_case(const Json& definition, const Arguments& arguments) {
  const char* limit = std::getenv("PANDO_TEST_TIMEOUT_S");
  Case one(definition, arguments);
  std::future<void> running = std::async(std::launch::async, [&] { one.run(); });
  const bool in_time =
      running.wait_for(std::chrono::seconds(limit != nullptr ? std::atoi(limit) : 60)) == std::future_status::ready;
  if (!in_time) one.abort();
  try {
    running.get();
    return in_time ? "" : "the case took too long";
  } catch (const std::exception& error) {
    return error.what();
  }
}

Arguments parse(int argc, char** argv) {
  Arguments arguments;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string name = argv[i];
    if (name == "--cases") arguments.cases = argv[i + 1];
    if (name == "--control") arguments.control = argv[i + 1];
    if (name == "--only") arguments.only = argv[i + 1];
    if (name != "--addresses") continue;
    std::stringstream list(argv[i + 1]);
    for (std::string address; std::getline(list, address, ',');) arguments.addresses.push_back(address);
  }
  return arguments;
}

int run_all(const Arguments& arguments) {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(arguments.cases)) {
    if (entry.path().extension() == ".json") files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  int passed = 0, failed = 0;
  for (const std::filesystem::path& file : files) {
    const Json cases = Json::parse(std::ifstream(file));
    for (const Json& definition : cases) {
      const std::string name = definition["name"];
      if (!arguments.only.empty() && arguments.only != name) continue;
      const Json only = definition.value("only", Json::array({"cpp"}));
      if (std::find(only.begin(), only.end(), "cpp") == only.end()) {
        std::cout << "skip " << name << std::endl;
        continue;
      }
      const std::string wrong = run_case(definition, arguments);
      ++(wrong.empty() ? passed : failed);
      std::cout << (wrong.empty() ? "ok " + name : "FAIL " + name + ": " + wrong) << std::endl;
    }
  }
  std::cout << passed << " passed, " << failed << " failed" << std::endl;
  return failed == 0 ? 0 : 1;
}

}  // namespace
}  // namespace conformance

int main(int argc, char** argv) {
  const conformance::Arguments arguments = conformance::parse(argc, argv);
  if (arguments.cases.empty() || arguments.addresses.empty() || arguments.control.empty()) {
    std::cerr << "usage: " << argv[0] << " --cases DIR --addresses HOST:PORT,... --control HOST:PORT [--only NAME]\n";
    return 2;
  }
  return conformance::run_all(arguments);
}
