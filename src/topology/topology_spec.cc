#include "src/topology/topology_spec.h"

#include <algorithm>
#include <utility>

#include "src/base/address.h"
#include "src/io/resolved_path.h"
#include "src/topology/file_topology.h"

namespace pando {
namespace {

constexpr std::string_view kFile = "file:";
constexpr std::string_view kEtcd = "etcd://";
constexpr size_t kMaxEndpoints = 16;
constexpr size_t kMaxNameBytes = 64;

Status Wrong(std::string_view text, std::string_view why) {
  return Error(Code::kInvalidArgument,
               "--topology \"{}\": {}. Examples: file:/var/lib/pando/topology, or "
               "etcd://10.0.0.1:2379,10.0.0.2:2379/production",
               text, why);
}

// Takes what stands before the first `end`, and `end` itself, away from `text`.
std::string_view TakeUntil(std::string_view* text, char end) {
  const size_t at = std::min(text->find(end), text->size());
  const std::string_view taken = text->substr(0, at);
  text->remove_prefix(std::min(at + 1, text->size()));
  return taken;
}

Status ParseEndpoints(std::string_view text, std::string_view list, std::vector<std::string>* endpoints) {
  if (list.empty()) return Wrong(text, "it names no server of etcd");
  if (list.ends_with(',')) return Wrong(text, "the list of servers ends with a comma");
  while (!list.empty()) {
    const std::string_view endpoint = TakeUntil(&list, ',');
    if (endpoint.find('@') != std::string_view::npos) {
      return Wrong(text, "a user and a password cannot be given here; etcd can know this node by its certificate");
    }
    Result<HostPort> address = ParseHostPort(endpoint);
    if (!address.ok()) return Wrong(text, address.status().message());
    std::string normal = FormatHostPort(address->host, address->port);
    if (std::find(endpoints->begin(), endpoints->end(), normal) != endpoints->end()) {
      return Wrong(text, fmt::format("it names {} twice", normal));
    }
    endpoints->push_back(std::move(normal));
  }
  if (endpoints->size() > kMaxEndpoints) {
    return Wrong(text, fmt::format("it names {} servers; at most {} are possible", endpoints->size(), kMaxEndpoints));
  }
  return Status();
}

Status ParseName(std::string_view text, std::string_view name) {
  if (name.empty()) return Wrong(text, "the name of the topology is missing after the servers, as in /production");
  const bool ok =
      name.size() <= kMaxNameBytes && std::all_of(name.begin(), name.end(), [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
      });
  if (ok) return Status();
  return Wrong(text, fmt::format("\"{}\" is not a name: it must have 1 to {} letters, digits, '-' and '_'", name,
                                 kMaxNameBytes));
}

Status ParseFiles(std::string_view text, std::string_view parameters, EtcdOptions* options) {
  while (!parameters.empty()) {
    std::string_view value = TakeUntil(&parameters, '&');
    const std::string_view name = TakeUntil(&value, '=');
    std::string* file = name == "ca"     ? &options->ca_file
                        : name == "cert" ? &options->cert_file
                        : name == "key"  ? &options->key_file
                                         : nullptr;
    if (file == nullptr)
      return Wrong(text, fmt::format("there is no parameter \"{}\"; there are ca, cert and key", name));
    if (value.empty()) return Wrong(text, fmt::format("the parameter {} has no value", name));
    if (!file->empty()) return Wrong(text, fmt::format("the parameter {} is given twice", name));
    *file = value;
  }
  if (options->cert_file.empty() != options->key_file.empty()) return Wrong(text, "cert and key need each other");
  if (!options->cert_file.empty() && options->ca_file.empty()) {
    return Wrong(text, "with cert and key it needs ca, the file of the authority that has signed etcd's certificate");
  }
  return Status();
}

}  // namespace

Result<TopologySpec> ParseTopologySpec(std::string_view text) {
  TopologySpec spec;
  if (text.starts_with(kFile)) {
    spec.directory = text.substr(kFile.size());
    if (spec.directory.starts_with("//")) return Wrong(text, "a directory is written without slashes before its path");
    if (spec.directory.empty()) return Wrong(text, "the directory is missing");
    return spec;
  }
  if (!text.starts_with(kEtcd)) return Wrong(text, "it must begin with file: or etcd://");
  std::string_view rest = text.substr(kEtcd.size());
  std::string_view place = TakeUntil(&rest, '?');
  RETURN_IF_ERROR(ParseEndpoints(text, TakeUntil(&place, '/'), &spec.etcd.endpoints));
  RETURN_IF_ERROR(ParseName(text, place));
  RETURN_IF_ERROR(ParseFiles(text, rest, &spec.etcd));
  spec.etcd.name = place;
  return spec;
}

Status CheckApart(const TopologySpec& spec, const std::string& data_dir) {
  if (spec.directory.empty()) return Status();
  const std::string data = ResolvedPath(data_dir), map = ResolvedPath(spec.directory);
  const char* how = data == map ? "is" : LiesIn(map, data) ? "holds" : LiesIn(data, map) ? "lies in" : nullptr;
  if (how == nullptr) return Status();
  return Error(
      Code::kInvalidArgument,
      "the data directory {} {} the directory of the topology, {}: the node would mix its store with the files "
      "of the map. Give the node a directory of its own; if it has served before, the one that it had",
      data_dir, how, spec.directory);
}

Task<Result<std::unique_ptr<TopologyStore>>> OpenTopologyStore(Reactor& reactor, TopologySpec spec) {
  if (!spec.directory.empty()) co_return co_await FileTopology::Open(reactor, std::move(spec.directory));
  Result<std::unique_ptr<HttpClient>> http = MakeHttpClient(reactor);
  if (!http.ok()) co_return http.TakeStatus();
  co_return std::unique_ptr<TopologyStore>(new EtcdTopology(reactor, *std::move(http), std::move(spec.etcd)));
}

}  // namespace pando
