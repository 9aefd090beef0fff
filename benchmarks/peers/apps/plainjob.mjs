// plainjob on SQLite (better-sqlite3), in Node: the producer that takes orders as lines of JSON, and the worker.
//
// node plainjob.mjs        node plainjob.mjs worker
//
// The record of what ran is that of record.py, written with pwrite because Node cannot map files.
import fs from "node:fs";
import path from "node:path";
import readline from "node:readline";
import { createRequire } from "node:module";

const require = createRequire(path.join(process.env.PEER_MODULES, "package.json"));
const load = async (name) => import(require.resolve(name));
const { better, defineQueue, defineWorker } = await load("plainjob");
const Database = (await load("better-sqlite3")).default;

const TEXT = "x".repeat(71);
const RECORD_BYTES = 16;
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const now = () => Number(process.hrtime.bigint());
const silent = { error: console.error, warn() {}, info() {}, debug() {} };

function open() {
  const connection = better(new Database(path.join(process.env.PEER_FOLDER, "plainjob.db"), { timeout: 30000 }));
  const timeout = process.env.PEER_RECOVERING === "1" ? 3000 : 30 * 60 * 1000;
  const maintenanceInterval = process.env.PEER_RECOVERING === "1" ? 1000 : 60 * 1000;
  const queue = defineQueue({ connection, timeout, maintenanceInterval, logger: silent });
  // plainjob sets synchronous = NORMAL itself, so this comes after it.
  if (process.env.PEER_DURABLE === "1") connection.pragma("synchronous = FULL");
  return queue;
}

async function work() {
  const queue = open();
  const workMs = 1000 * Number(process.env.PEER_WORK_S || "0");
  const counts = new Map();
  const record = Buffer.alloc(RECORD_BYTES);
  let file;
  const begin = async () => {
    const folder = process.env.PEER_RUNS;
    file = fs.openSync(path.join(folder, `${process.pid}.runs`), "w+");
    fs.ftruncateSync(file, Number(process.env.PEER_CAPACITY) * RECORD_BYTES);
    while (!fs.existsSync(path.join(folder, "go"))) await sleep(1);
  };
  const worker = defineWorker(
    "noop",
    async (job) => {
      const { index } = JSON.parse(job.data);
      if (file === undefined) await begin();
      const times = (counts.get(index) ?? 0) + 1;
      if (workMs || times > 1) counts.set(index, times);
      record[0] = times;
      record[1] = workMs ? times - 1 : times;
      record.writeBigUInt64LE(process.hrtime.bigint(), 8);
      fs.writeSync(file, record, 0, RECORD_BYTES, index * RECORD_BYTES);
      if (!workMs) return;
      await sleep(workMs);
      record[1] = times;
      fs.writeSync(file, record, 1, 1, index * RECORD_BYTES + 1);
    },
    { queue, pollIntervall: 2, logger: silent },
  );
  await worker.start();
}

let queue;

function moment(files, index) {
  const found = Buffer.alloc(8);
  for (const name of fs.readdirSync(process.env.PEER_RUNS)) {
    if (!name.endsWith(".runs")) continue;
    if (!files.has(name)) files.set(name, fs.openSync(path.join(process.env.PEER_RUNS, name), "r"));
    fs.readSync(files.get(name), found, 0, 8, index * RECORD_BYTES + 8);
    const value = Number(found.readBigUInt64LE());
    if (value) return value;
  }
  return 0;
}

const orders = {
  async info() {
    return {
      version: require("plainjob/package.json").version,
      jobs: 10000,
      batch: 100,
      settings: `two workers, pollIntervall 2 ms, better-sqlite3 ${require("better-sqlite3/package.json").version}, ` +
        `Node ${process.versions.node}; many: addMany of 100`,
      recovery: "timeout 3 s (default 30 min), maintenanceInterval 1 s (default 60 s)",
      daemon: false,
      recovers: true,
      workers: [0, 1].map(() => [process.execPath, process.argv[1], "worker"]),
    };
  },
  async setup() {
    queue = open();
  },
  async enqueue_many({ first, count, most_s }) {
    return this.produce(first, count, most_s, 100);
  },
  async enqueue({ first, count, most_s }) {
    return this.produce(first, count, most_s, 1);
  },
  async produce(first, count, mostS, batch) {
    const began = now();
    let done = 0;
    while (done < count && now() - began < mostS * 1e9) {
      const step = Math.min(batch, count - done);
      if (step === 1) {
        queue.add("noop", { index: first + done, text: TEXT });
      } else {
        const from = first + done;
        queue.addMany("noop", Array.from({ length: step }, (_, i) => ({ index: from + i, text: TEXT })));
      }
      done += step;
    }
    return { count: done, began: began / 1e9, seconds: (now() - began) / 1e9 };
  },
  async nudge({ index }) {
    this.produce(index, 1, 1, 1);
  },
  async latency({ first, count, most_s }) {
    const samples = [];
    const files = new Map();
    const until = now() + most_s * 1e9;
    for (let index = first; index < first + count && now() < until; index++) {
      const before = now();
      queue.add("noop", { index, text: TEXT });
      let began = 0;
      while (!(began = moment(files, index)) && now() - before < 12e9) await sleep(1);
      if (!began) break;
      samples.push((began - before) / 1e6);
      await sleep(5 + Math.random() * 20);
    }
    return { samples };
  },
};

if (process.argv[2] === "worker") {
  await work();
} else {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const order = JSON.parse(line);
    const answer = await orders[order.do](order);
    process.stdout.write(JSON.stringify(answer ?? null) + "\n");
  }
  process.exit(0);
}
