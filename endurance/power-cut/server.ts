// A server in a process of its own, whose power goes at a planned moment.
import { serve } from '@node-vmm/vhost-user-blk'
import type { Plan } from './plan.ts'
import { cutting } from './volatile-engine.ts'

/** What this program is given, as JSON. */
export interface ServerJob {
  readonly plan: Plan
  readonly path: string
  readonly socketPath: string
}

const { plan, path, socketPath } = JSON.parse(process.argv[2]!) as ServerJob
const { queues, writeThrough, packed, inOrder, direct, cut } = plan
await serve({ path, socketPath, queues, writeThrough, packed, inOrder, direct, engine: cutting(cut), log: (line) => console.error(line) })
console.log('ready')
