#include <fmt/format.h>
#include <unistd.h>

#include "tools/kvbench/commands/commands.h"
#include "tools/kvbench/data.h"

namespace pando::bench {

void AddDataOptions(CLI::App* command, CommonSettings* s) {
  tools::AddNumber(command, "--keys", &s->run.workload.keys, "Records in the store")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  tools::AddNumber(command, "--key_bytes", &s->run.shape.key_bytes, "Length of each key, in bytes")
      ->capture_default_str()
      ->check(CLI::Range(kMinKeyBytes, size_t{2048}));
  tools::AddNumber(command, "--value_bytes", &s->run.shape.value_bytes,
                   "Length of each value, in bytes; half of it compresses")
      ->capture_default_str()
      ->check(CLI::Range(kMinValueBytes, size_t{1} << 20));
  tools::AddNumber(command, "--warmup_s", &s->run.generator.warmup_s, "Seconds of load before the measurement")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  tools::AddNumber(command, "--seconds", &s->run.generator.seconds, "Seconds to measure")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  tools::AddNumber(command, "--seed", &s->run.workload.seed, "Random seed of the requests")->capture_default_str();
  tools::AddNumber(command, "--check_every", &s->run.generator.check_every,
                   "Compare the contents of one answer in this many; all are checked for success and length")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  command->add_option("--json", s->json_path, "Write one line of JSON per measurement to this file");
}

void AddServerOptions(CLI::App* command, CommonSettings* s) {
  command->add_option("--kvnode", s->server.binary, "The kvnode binary to start")->capture_default_str();
  command->add_option("--redis_server", s->server.redis_binary, "The redis-server binary to start")
      ->capture_default_str();
  command->add_option("--scratch_dir", s->server.scratch_dir, "Directory for the data of the started servers")
      ->capture_default_str()
      ->check(CLI::ExistingDirectory);
  tools::AddNumber(command, "--memory_limit_mb", &s->server.memory_limit_mb,
                   "Memory limit of the started kvnode, in MiB; default: four times the data, at least 1024");
  command->add_option("--kvnode_arg", s->server.extra_args, "Another argument for kvnode; may be repeated")
      ->allow_extra_args(false);
  tools::AddNumber(command, "--server_core", &s->server.core, "The core of the started server")->capture_default_str();
  tools::AddNumber(command, "--generator_core", &s->generator_core,
                   "The core of the generator; default: the last core");
  command->add_flag("--pin,!--no_pin", s->pin, "Pin the server and the generator to their cores (default: on)");
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
