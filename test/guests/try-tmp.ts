import { bootUml, bootQemu } from '/work/main/test/support/guest.ts'
import { withServer } from '/work/main/test/support/server.ts'
import { readFileSync } from 'node:fs'
const [,, kind, image, script, ro] = process.argv
await withServer({ image: image!, readOnly: ro === 'ro' }, async ({ socket }) => {
  const guest = (kind === 'uml' ? bootUml : bootQemu)({ socket, script: readFileSync(script!, 'utf8') })
  await guest.finished()
})
