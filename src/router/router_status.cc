#include "src/router/router_status.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <unordered_map>
#include <utility>

namespace pando {

namespace {

constexpr size_t kMostNamed = 100, kMostInJson = 1000;  // partitions in a list

double Milliseconds(Nanos ns) { return static_cast<double>(ns) / 1e6; }

std::string Escape(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '&': out += "&amp;"; break;
      case '"': out += "&quot;"; break;
      default: out += c;
    }
  }
  return out;
}

std::vector<uint32_t> FirstOf(const PartitionSet& partitions, size_t most) {
  std::vector<uint32_t> first;
  if (partitions.none()) return first;
  for (uint32_t p = 0; p < partitions.size() && first.size() < most; ++p) {
    if (partitions[p]) first.push_back(p);
  }
  return first;
}

std::string ListOf(const PartitionSet& partitions) {
  if (partitions.none()) return "none";
  const std::vector<uint32_t> named = FirstOf(partitions, kMostNamed);
  std::string text = std::to_string(partitions.count()) + ": ";
  for (size_t i = 0; i < named.size(); ++i) text += (i == 0 ? "" : ", ") + std::to_string(named[i]);
  return text + (named.size() < partitions.count() ? ", ..." : "");
}

// Which partitions have no master, or one that cannot be reached, and how many each node leads.
void CollectRoutes(const RouteKeeper& keeper, RouterStatus* status) {
  struct Master {
    NodeStatus* node = nullptr;
    bool up = false;
  };
  // Looked up once for each node, not for each partition.
  std::unordered_map<NodeId, Master> masters;
  for (const auto& [id, known] : keeper.map().nodes()) {
    const auto at = status->nodes.find(known.address);
    const std::shared_ptr<Upstream> upstream = keeper.NodeOf(id);
    masters[id] = {at == status->nodes.end() ? nullptr : &at->second, upstream != nullptr && upstream->up()};
  }
  for (const Route& route : keeper.map().routes()) {
    const auto master = route.master == 0 ? masters.end() : masters.find(route.master);
    if (master == masters.end()) {
      status->no_master.set(route.partition);
      continue;
    }
    if (master->second.node != nullptr) ++master->second.node->masters;
    if (!master->second.up) status->unreachable.set(route.partition);
  }
}

std::string ListOf(const std::map<uint32_t, std::string>& refused) {
  PartitionSet partitions;
  for (const auto& [partition, why] : refused) partitions.set(partition % kMaxPartitions);
  return ListOf(partitions) + (refused.empty() ? "" : ". For example: " + refused.begin()->second);
}

std::string Megabytes(int64_t bytes) { return fmt::format("{:.1f} MiB", static_cast<double>(bytes) / (1 << 20)); }

std::string StateOf(const NodeStatus& node, uint32_t reactors) {
  if (node.reactors_up == reactors) return "up";
  return node.reactors_up == 0 ? "out" : fmt::format("up on {} of {} reactors", node.reactors_up, reactors);
}

class Page {
 public:
  void Title(std::string_view text) { out_ += fmt::format("<h2>{}</h2>\n", text); }
  void BeginTable() { out_ += "<table>\n"; }
  void EndTable() { out_ += "</table>\n"; }
  void Fact(std::string_view name, std::string_view value) {
    out_ += fmt::format("<tr><th>{}</th><td>{}</td></tr>\n", name, Escape(value));
  }
  void Row(const std::vector<std::string>& cells, std::string_view tag = "td") {
    out_ += "<tr>";
    for (const std::string& cell : cells) out_ += fmt::format("<{0}>{1}</{0}>", tag, Escape(cell));
    out_ += "</tr>\n";
  }
  void Raw(std::string_view html) { out_ += html; }
  std::string Take() { return std::move(out_); }

 private:
  std::string out_;
};

constexpr char kHead[] =
    "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>kvrouter</title>\n<style>\n"
    "body { font: 15px/1.4 sans-serif; margin: 2em; max-width: 70em }\n"
    "table { border-collapse: collapse }\n"
    "th, td { border: 1px solid #ccc; padding: 0.2em 0.6em; text-align: left }\n"
    "</style>\n</head>\n<body>\n<h1>kvrouter</h1>\n";

}  // namespace

void CollectStatus(RpcServer* server, RouteKeeper* keeper, RouterService* service, RouterStatus* status) {
  const Nanos now_ns = keeper->reactor().NowNs();
  const RouteMap& map = keeper->map();
  ++status->reactors;
  status->reactors_with_map += map.complete() ? 1 : 0;
  if (const std::string why = keeper->WhyNotReady(); !why.empty()) status->map_trouble = why;
  if (status->foreign.empty()) status->foreign = keeper->foreign();
  status->connections += server->metrics().connections.value();
  status->watches += service->watches().metrics().waiting.value();
  const ForwarderMetrics& forward = service->forwarder().metrics();
  status->refused.merge(keeper->Refusals());
  status->totals.point_requests += forward.requests_total.value();
  status->totals.retries += forward.retries_total.value();
  status->totals.gave_up += forward.gave_up_total.value();
  status->totals.calls += keeper->metrics().upstream.calls_total.value();
  status->totals.overloaded += server->metrics().overloaded_total.value();
  for (const auto& method : service->method_metrics()) status->totals.other_requests += method->requests_total.value();
  for (const auto& [address, upstream] : keeper->upstreams()) {
    NodeStatus& node = status->nodes[address];
    node.reactors_up += upstream->up() ? 1 : 0;
    if (!upstream->up()) node.trouble = upstream->trouble().message();
    node.in_flight += upstream->calls_in_progress();
    node.in_flight_long += upstream->long_calls_in_progress();
    node.trips += upstream->trips();
    for (auto [from, to] : {std::pair(&upstream->gets(), &node.gets), std::pair(&upstream->writes(), &node.writes)}) {
      from->Turn(now_ns);
      to->Merge(*from);
    }
  }
  // The reactors have the same map, but for a moment.
  if (!map.complete() || map.version() < status->map_version) return;
  if (map.version() > status->map_version) status->no_master.reset(), status->unreachable.reset();
  status->map_version = map.version();
  status->cluster_id = map.cluster_id().ToString();
  status->partitions = map.routes().size();
  for (auto& [address, node] : status->nodes) node.masters = 0;
  for (const auto& [id, known] : map.nodes()) {
    const auto at = status->nodes.find(known.address);
    if (at == status->nodes.end()) continue;
    at->second.id = id;
    at->second.zone = known.zone;
  }
  CollectRoutes(*keeper, status);
}

void RouterRates::Fill(Nanos now_ns, RouterStatus* status) {
  if (now_ns - last_ns_ >= kLeastNs) {
    before_ = std::exchange(last_, status->totals);
    before_ns_ = std::exchange(last_ns_, now_ns);
  }
  const double seconds = static_cast<double>(now_ns - before_ns_) / 1e9;
  if (seconds <= 0) return;
  status->rates_over_s = static_cast<int64_t>(seconds);
  const auto add = [&](const char* name, uint64_t RouterTotals::*total) {
    status->rates[name] = static_cast<double>(status->totals.*total - before_.*total) / seconds;
  };
  add("point_requests", &RouterTotals::point_requests);
  add("other_requests", &RouterTotals::other_requests);
  add("calls_of_nodes", &RouterTotals::calls);
  add("retries", &RouterTotals::retries);
  add("gave_up", &RouterTotals::gave_up);
  add("overloaded", &RouterTotals::overloaded);
}

std::string StatusAsJson(const RouterStatus& status) {
  nlohmann::ordered_json json;
  json["version"] = status.version;
  json["uptime_s"] = status.uptime_s;
  json["reactors"] = status.reactors;
  json["reactors_with_map"] = status.reactors_with_map;
  json["cluster_id"] = status.cluster_id;
  json["map_version"] = status.map_version;
  json["partitions"] = status.partitions;
  json["map_trouble"] = status.map_trouble;
  json["foreign_nodes"] = nlohmann::ordered_json::array();
  for (const auto& [address, why] : status.foreign) {
    json["foreign_nodes"].push_back({{"address", address}, {"why", why}});
  }
  // The lists are cut; the counts are not.
  json["partitions_without_master_count"] = status.no_master.count();
  json["partitions_without_master"] = FirstOf(status.no_master, kMostInJson);
  json["partitions_with_unreachable_master_count"] = status.unreachable.count();
  json["partitions_with_unreachable_master"] = FirstOf(status.unreachable, kMostInJson);
  json["partitions_refused"] = nlohmann::ordered_json::array();
  for (const auto& [partition, why] : status.refused) {
    json["partitions_refused"].push_back({{"partition", partition}, {"why", why}});
  }
  json["memory_used_bytes"] = status.memory_used_bytes;
  json["memory_limit_bytes"] = status.memory_limit_bytes;
  json["client_connections"] = status.connections;
  json["watches"] = status.watches;
  json["rates_over_s"] = status.rates_over_s;
  json["rates_per_s"] = status.rates;
  json["nodes"] = nlohmann::ordered_json::array();
  for (const auto& [address, node] : status.nodes) {
    nlohmann::ordered_json& to = json["nodes"].emplace_back();
    to["address"] = address;
    to["id"] = node.id;
    to["zone"] = node.zone;
    to["state"] = StateOf(node, status.reactors);
    to["trouble"] = node.trouble;
    to["masters"] = node.masters;
    to["in_flight"] = node.in_flight;
    to["in_flight_long"] = node.in_flight_long;
    to["breaker_trips"] = node.trips;
    for (auto [name, latency] : {std::pair("gets", &node.gets), std::pair("writes", &node.writes)}) {
      to[name] = {{"recent", latency->count()},
                  {"p50_ms", Milliseconds(latency->Percentile(50))},
                  {"p99_ms", Milliseconds(latency->Percentile(99))}};
    }
  }
  // An address may be anything that a node was told.
  return json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

std::string StatusAsHtml(const RouterStatus& status) {
  Page page;
  page.Raw(kHead);
  page.BeginTable();
  page.Fact("Version", status.version);
  page.Fact("Uptime", fmt::format("{} s", status.uptime_s));
  page.Fact("Cluster", status.cluster_id.empty() ? "unknown" : status.cluster_id);
  if (!status.map_trouble.empty()) page.Fact("Not ready", status.map_trouble);
  for (const auto& [address, why] : status.foreign) page.Fact("Not used", why);
  page.Fact("Map", fmt::format("version {}, {} partitions, known to {} of {} reactors", status.map_version,
                               status.partitions, status.reactors_with_map, status.reactors));
  page.Fact("Partitions without a master", ListOf(status.no_master));
  page.Fact("Partitions whose master cannot be reached", ListOf(status.unreachable));
  page.Fact("Partitions whose master has refused requests in the last 10 s", ListOf(status.refused));
  page.Fact("Memory of requests", Megabytes(status.memory_used_bytes) + " of " + Megabytes(status.memory_limit_bytes));
  page.Fact("Connections of clients", std::to_string(status.connections));
  page.Fact("Watches that wait", std::to_string(status.watches));
  page.EndTable();
  page.Title(fmt::format("Rates, over {} s", status.rates_over_s));
  page.BeginTable();
  for (const auto& [name, rate] : status.rates) page.Fact(name, fmt::format("{:.1f} /s", rate));
  page.EndTable();
  page.Title("Nodes");
  page.BeginTable();
  page.Row({"Node", "Address", "Zone", "State", "Left out", "Leads", "In flight", "of them long", "Gets p50", "p99",
            "Writes p50", "p99"},
           "th");
  for (const auto& [address, node] : status.nodes) {
    std::vector<std::string> cells = {node.id == 0 ? "not in the map" : std::to_string(node.id), address, node.zone};
    std::string state = StateOf(node, status.reactors);
    if (node.reactors_up < status.reactors) state += ": " + node.trouble;
    cells.push_back(std::move(state));
    cells.push_back(fmt::format("{} times", node.trips));
    cells.push_back(fmt::format("{} partitions", node.masters));
    cells.push_back(std::to_string(node.in_flight));
    cells.push_back(std::to_string(node.in_flight_long));
    for (const RecentLatency* latency : {&node.gets, &node.writes}) {
      for (const double percent : {50.0, 99.0}) {
        cells.push_back(latency->count() == 0 ? "-"
                                              : fmt::format("{:.2f} ms", Milliseconds(latency->Percentile(percent))));
      }
    }
    page.Row(cells);
  }
  page.EndTable();
  page.Raw(
      "<p>Latencies are of the last 10 to 20 seconds. The same as JSON: <a href=\"/status\">/status</a>. Numbers for "
      "monitoring: <a href=\"/metrics\">/metrics</a>.</p>\n</body>\n</html>\n");
  return page.Take();
}

}  // namespace pando
