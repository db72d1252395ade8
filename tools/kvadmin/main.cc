// kvadmin: operates and inspects a Pando store.
#include <string>

#include <thrift/TOutput.h>  // needs <string> before it

#include "src/base/check.h"
#include "tools/common/interrupts.h"
#include "tools/kvadmin/commands/commands.h"

int main(int argc, char** argv) {
  pando::tools::PrepareStandardStreams();
  FLAGS_logtostderr = true;
  FLAGS_minloglevel = google::GLOG_ERROR;
  google::InitGoogleLogging(argv[0]);
  // Silences Thrift's own messages: every error is reported as a Status.
  apache::thrift::GlobalOutput.setOutputFunction([](const char*) {});
  pando::admin::Globals globals;
  pando::admin::RunCommandLine(argc, argv, &globals);
  if (globals.end_signal != 0) pando::tools::Interrupts::EndBySignal(globals.end_signal);
  return globals.exit_code;
}
