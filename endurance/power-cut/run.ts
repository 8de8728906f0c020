import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { PowerCut } from '@node-vmm/ioq/testing'
import { BlockDriver } from '@node-vmm/virtio-blk-driver'
import { Running } from '../../test/support/processes.ts'
import { startOurs } from '../../test/support/server.ts'
import { MEMORY_FOLDER } from '../../test/support/temporary.ts'
import { loadUntilGone } from './guest.ts'
import { History, type Violation } from './history.ts'
import type { Plan } from './plan.ts'
import type { ServerJob } from './server.ts'

/** Sectors of the disk: so few that requests meet. */
const SECTORS = 512
const READY_SECONDS = 60
const END_SECONDS = 60

/** What came of a run. */
export interface Outcome {
  readonly plan: Plan
  readonly acknowledged: number
  readonly flushes: number
  /** What the power cut did; undefined where only the process ended. */
  readonly powerCut: PowerCut | undefined
  readonly violations: readonly Violation[]
}

/** Serves a disk to a guest that loads it, takes the power away, and looks what the disk has. */
export async function run (plan: Plan): Promise<Outcome> {
  const folder = mkdtempSync(join(plan.cut.engine === 'mapped' ? MEMORY_FOLDER : tmpdir(), 'node-vmm-power-cut-'))
  const [path, socketPath] = [join(folder, 'disk.img'), join(folder, 'vhost.sock')]
  const { how, writeThrough } = plan
  const history = new History(SECTORS, writeThrough || how === 'process' ? 'acknowledged' : 'flushed')
  let server: Running | undefined
  try {
    writeFileSync(path, history.initial)
    server = await start(plan, path, socketPath)
    await loadUntilCut(plan, server, socketPath, history)
    const report = /^\{.*\}$/m.exec(server.output)?.[0]
    return {
      plan,
      acknowledged: history.acknowledged,
      flushes: history.flushes,
      powerCut: report === undefined ? undefined : JSON.parse(report) as PowerCut,
      violations: history.check(readFileSync(path))
    }
  } finally {
    await server?.kill()
    rmSync(folder, { recursive: true })
  }
}

async function start (plan: Plan, path: string, socketPath: string): Promise<Running> {
  const { how, queues, writeThrough, packed, inOrder, direct, cut } = plan
  if (how === 'process') {
    const flags = [...(writeThrough ? ['--write-through'] : []), ...(packed ? ['--packed'] : []), ...(inOrder ? ['--in-order'] : [])]
    return await startOurs(socketPath, { image: path, queues, direct, engine: cut.engine, flags })
  }
  const job: ServerJob = { plan, path, socketPath }
  const program = fileURLToPath(new URL('./server.ts', import.meta.url))
  const server = new Running('the server', process.execPath, [...process.execArgv, program, JSON.stringify(job)])
  await server.printed(/^ready$/m, READY_SECONDS)
  return server
}

async function loadUntilCut (plan: Plan, server: Running, socketPath: string, history: History): Promise<void> {
  const { how, queues, packed, inOrder, cut } = plan
  const driver = await BlockDriver.connect({ socketPath, queues, packed, inOrder, timeout: READY_SECONDS * 1000 })
  let left = how === 'process' ? cut.requests : Infinity
  await loadUntilGone(driver, history, plan, () => { if (--left === 0) server.signal('SIGKILL') })
  await driver.close()
  const { signal } = await server.ended(END_SECONDS)
  if (signal !== 'SIGKILL') throw server.failure('ended by itself')
}
