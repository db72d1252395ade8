// kvadmin: operate and inspect a Pando store.
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
  apache::thrift::GlobalOutput.setOutputFunction([](const char*) {});  // every error reaches the user as a Status
  pando::admin::Globals globals;
  pando::admin::RunCommandLine(argc, argv, &globals);
  if (globals.end_signal != 0) pando::tools::Interrupts::EndBySignal(globals.end_signal);
  return globals.exit_code;
}
