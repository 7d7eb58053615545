// pg-boss at its best: work() in batches, several workers, and no pause between
// full batches (notifyWorker, see "Workers" in its documentation).
//
// node pgboss.js fill JOBS | run JOBS | timeline SECONDS
// PGBOSS_WORKERS fetch PGBOSS_BATCH jobs at a time. run prints the seconds from the first worker's start to the end of the last
// job, timeline the jobs that ended in each second.
const PgBoss = require("pg-boss");

const [mode, count] = [process.argv[2], Number(process.argv[3])];
const workers = Number(process.env.PGBOSS_WORKERS);
const batchSize = Number(process.env.PGBOSS_BATCH);
const boss = new PgBoss({
  host: process.env.PGHOST,
  port: Number(process.env.PGPORT),
  user: process.env.PGUSER,
  database: process.env.PGDATABASE,
  schedule: false,
});
boss.on("error", console.error);

async function fill() {
  await boss.start();
  await boss.createQueue("noop");
  const data = JSON.parse(process.env.ARGS);
  for (let left = count; left > 0; left -= 10000) {
    await boss.insert(Array.from({ length: Math.min(left, 10000) }, () => ({ name: "noop", data })));
  }
  await boss.stop({ graceful: false, wait: true });
}

async function work() {
  let done = 0;
  let last = 0;
  let finished;
  const end = new Promise((resolve) => {
    finished = resolve;
  });
  await boss.start();
  const start = performance.now();
  for (let i = 0; i < workers; i++) {
    const options = { batchSize, pollingIntervalSeconds: 0.5, priority: false };
    const id = await boss.work("noop", options, async (jobs) => {
      done += jobs.length;
      boss.notifyWorker(id);
      if (mode === "run" && done >= count) finished();
    });
  }
  if (mode === "timeline") {
    for (let second = 1; second <= count; second++) {
      await new Promise((resolve) => setTimeout(resolve, 1000));
      console.log(`${second}\t${done - last}`);
      last = done;
    }
    finished();
  }
  await end;
  if (mode === "run") {
    // the last batches are completed after their handlers have returned
    const open = "SELECT FROM pgboss.job WHERE name = 'noop' AND state < 'completed' LIMIT 1";
    while ((await boss.getDb().executeSql(open)).rows.length > 0) {
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    console.log((performance.now() - start) / 1000);
  }
  await boss.stop({ wait: true });
}

(mode === "fill" ? fill() : work()).catch((error) => {
  console.error(error);
  process.exit(1);
});
