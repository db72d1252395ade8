#include <fmt/format.h>
#include <unistd.h>

#include "tools/kvbench/commands/commands.h"
#include "tools/kvbench/data.h"

namespace pando::bench {

void AddDataOptions(tools::Command command, CommonSettings* s) {
  command.Number("--keys", &s->run.workload.keys, "Records in the store", 1).ShowDefault();
  command.Number("--key_bytes", &s->run.shape.key_bytes, "Length of each key, in bytes", kMinKeyBytes, size_t{2048})
      .ShowDefault();
  command
      .Number("--value_bytes", &s->run.shape.value_bytes, "Length of each value, in bytes; half of it compresses",
              kMinValueBytes, size_t{1} << 20)
      .ShowDefault();
  command.Number("--warmup_s", &s->run.generator.warmup_s, "Seconds of load before the measurement", 0).ShowDefault();
  command.Number("--seconds", &s->run.generator.seconds, "Seconds to measure", 0.001).ShowDefault();
  command.Number("--seed", &s->run.workload.seed, "Random seed of the requests").ShowDefault();
  command
      .Number("--check_every", &s->run.generator.check_every,
              "Compare the contents of one answer in this many; all are checked for success and length", 1)
      .ShowDefault();
  command.Text("--json", &s->json_path, "Write one line of JSON per measurement to this file");
}

void AddServerOptions(tools::Command command, CommonSettings* s) {
  command.Text("--kvnode", &s->server.binary, "The kvnode binary to start").ShowDefault();
  command.Text("--redis_server", &s->server.redis_binary, "The redis-server binary to start").ShowDefault();
  command.Text("--scratch_dir", &s->server.scratch_dir, "Directory for the data of the started servers")
      .ShowDefault()
      .ExistingDirectory();
  command.Number("--memory_limit_mb", &s->server.memory_limit_mb,
                 "Memory limit of the started kvnode, in MiB; default: four times the data, at least 1024");
  command.Texts("--kvnode_arg", &s->server.extra_args, "Another argument for kvnode; may be repeated").OneValueEach();
  command.Number("--server_core", &s->server.core, "The core of the started server").ShowDefault();
  command.Number("--generator_core", &s->generator_core, "The core of the generator; default: the last core");
  command.Flag("--pin,!--no_pin", &s->pin, "Pin the server and the generator to their cores (default: on)");
}

void AddClusterOptions(tools::Command command, ServerOptions* server) {
  command.Text("--kvnode", &server->binary, "The kvnode binary to start").ShowDefault();
  command.Text("--kvadmin", &server->kvadmin_binary, "The kvadmin binary that creates the cluster").ShowDefault();
  command.Text("--redis_server", &server->redis_binary, "The redis-server binary to start").ShowDefault();
  command.Text("--etcd", &server->etcd_binary, "The etcd binary to start").ShowDefault();
  command.Text("--scratch_dir", &server->scratch_dir, "Directory for the data of the started servers")
      .ShowDefault()
      .ExistingDirectory();
  command.Texts("--kvnode_arg", &server->extra_args, "Another argument for kvnode; may be repeated").OneValueEach();
}

void AddDistributionOption(tools::Command command, Distribution* distribution, const std::string& help) {
  command.Choice(
      "--distribution", {"uniform", "zipfian"},
      [distribution](const std::string& name) {
        *distribution = name == "zipfian" ? Distribution::kZipfian : Distribution::kUniform;
      },
      help + "; zipfian is scattered");
}

Status Prepare(CommonSettings* s) {
  const int cores = static_cast<int>(::sysconf(_SC_NPROCESSORS_ONLN));
  if (!s->pin || cores < 2) {
    s->server.core = s->generator_core = -1;
  } else if (s->generator_core < 0) {
    s->generator_core = cores - 1;
  }
  if (s->pin && cores >= 2 && s->generator_core == s->server.core) {
    return Error(Code::kInvalidArgument,
                 "server and generator would share core {}; set --server_core or --generator_core", s->server.core);
  }
  s->server.data_bytes = s->run.workload.keys * (s->run.shape.key_bytes + s->run.shape.value_bytes);
  return PinThread(s->generator_core);
}

int Report(const Status& status) {
  if (status.ok()) return kExitOk;
  tools::PrintNote("kvbench: {}\n", status.message());
  return status.code() == Code::kInvalidArgument || status.code() == Code::kUnsupported ? kExitUsage : kExitFailed;
}

}  // namespace pando::bench
