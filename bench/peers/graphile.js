// graphile-worker at its best, as its page "Performance" configures it: a
// local queue, completions in batches, 24 jobs at a time.
//
// node graphile.js fill JOBS | run JOBS | timeline SECONDS
// run prints the seconds from the start of the worker to its end, timeline
// the jobs that ended in each second.
const { run, makeWorkerUtils, Logger } = require("graphile-worker");

const [mode, count] = [process.argv[2], Number(process.argv[3])];
const preset = {
  worker: {
    connectionString: process.env.DATABASE_URL,
    concurrentJobs: 24,
    maxPoolSize: 25,
    localQueue: { size: 500 },
    completeJobBatchDelay: 0,
    failJobBatchDelay: 0,
  },
};
const logger = new Logger(() => () => {});

async function fill() {
  const utils = await makeWorkerUtils({ preset, logger });
  const payload = JSON.parse(process.env.ARGS);
  for (let left = count; left > 0; left -= 10000) {
    const jobs = Array.from({ length: Math.min(left, 10000) }, () => ({ identifier: "noop", payload }));
    await utils.addJobs(jobs);
  }
  await utils.release();
}

async function work() {
  let done = 0;
  let last = 0;
  let second = 0;
  let timer;
  const start = performance.now();
  const runner = await run({
    preset,
    logger,
    noHandleSignals: true,
    taskList: {
      noop() {
        done++;
        if (mode === "run" && done === count) runner.stop();
      },
    },
  });
  if (mode === "timeline") {
    timer = setInterval(() => {
      second++;
      console.log(`${second}\t${done - last}`);
      last = done;
      if (second === count) {
        clearInterval(timer);
        runner.stop();
      }
    }, 1000);
  }
  await runner.promise;
  if (mode === "run") console.log((performance.now() - start) / 1000);
}

(mode === "fill" ? fill() : work()).catch((error) => {
  console.error(error);
  process.exit(1);
});
