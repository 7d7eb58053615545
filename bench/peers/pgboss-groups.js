// pg-boss 12 with groups, of which one job each runs at once (groupConcurrency,
// the one of its two options that holds for all processes), at its best: several
// workers, batches, and no pause between full batches.
//
// node pgboss-groups.js fill JOBS | run JOBS
// PGBOSS_WORKERS fetch PGBOSS_BATCH jobs of PGBOSS_GROUPS groups at a time. run
// prints the seconds from the first worker's start to the end of the last job.
const { join } = require("node:path");

const [mode, count] = [process.argv[2], Number(process.argv[3])];
const workers = Number(process.env.PGBOSS_WORKERS);
const batchSize = Number(process.env.PGBOSS_BATCH);
const groups = Number(process.env.PGBOSS_GROUPS);
let boss;

async function fill() {
  await boss.start();
  await boss.createQueue("noop");
  const data = JSON.parse(process.env.ARGS);
  for (let done = 0; done < count; done += 10000) {
    const length = Math.min(count - done, 10000);
    await boss.insert("noop", Array.from({ length }, (_, i) => ({ data, group: { id: String((done + i) % groups) } })));
  }
}

async function work() {
  let done = 0;
  let finished;
  const end = new Promise((resolve) => {
    finished = resolve;
  });
  await boss.start();
  const start = performance.now();
  const options = { batchSize, groupConcurrency: 1, pollingIntervalSeconds: 0.5 };
  for (let i = 0; i < workers; i++) {
    const id = await boss.work("noop", options, async (jobs) => {
      done += jobs.length;
      boss.notifyWorker(id);
      if (done >= count) finished();
    });
  }
  await end;
  // the last batches are completed after their handlers have returned
  const open = "SELECT FROM pgboss.job WHERE name = 'noop' AND state < 'completed' LIMIT 1";
  while ((await boss.getDb().executeSql(open)).rows.length > 0) {
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  console.log((performance.now() - start) / 1000);
}

(async () => {
  // a module, for which NODE_PATH does not count
  const { PgBoss } = await import(join(process.env.NODE_PATH, "pg-boss-12/dist/index.js"));
  boss = new PgBoss({
    host: process.env.PGHOST,
    port: Number(process.env.PGPORT),
    user: process.env.PGUSER,
    database: process.env.PGDATABASE,
    schedule: false,
  });
  boss.on("error", console.error);
  await (mode === "fill" ? fill() : work());
  await boss.stop({ graceful: mode !== "fill" });
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
