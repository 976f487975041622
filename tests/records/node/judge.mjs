// GitHub's own cache client does what it is told: `node judge.mjs ORDERS RESULTS`, both JSON lists.
// save and restore are what actions/cache does; put and get are its parts, for keys, versions and content of any kind.
import { readFile, writeFile } from 'node:fs/promises'
import { restoreCache, saveCache } from '@actions/cache'

const inside = (file) => import(new URL(`node_modules/@actions/cache/lib/internal/${file}`, import.meta.url))
const { internalCacheTwirpClient } = await inside('shared/cacheTwirpClient.js')
const { saveCache: upload, downloadCache: download } = await inside('cacheHttpClient.js')

const orders = {
  save: async ({ key, file }) => await saveCache([file], key),
  restore: async ({ key, file, prefixes, lookupOnly }) =>
    (await restoreCache([file], key, prefixes ?? [], { lookupOnly: lookupOnly ?? false })) ?? null,
  put: async ({ key, version, file }) => {
    const service = internalCacheTwirpClient({ maxAttempts: 1 })
    const created = await service.CreateCacheEntry({ key, version })
    if (!created.ok) return created.message
    await upload(-1, file, created.signedUploadUrl, { useAzureSdk: true })
    const sizeBytes = `${(await readFile(file)).length}`
    return (await service.FinalizeCacheEntryUpload({ key, version, sizeBytes })).ok
  },
  get: async ({ key, version, file, prefixes }) => {
    const service = internalCacheTwirpClient({ maxAttempts: 1 })
    const found = await service.GetCacheEntryDownloadURL({ key, version, restoreKeys: prefixes ?? [] })
    if (!found.ok) return null
    if (file) await download(found.signedDownloadUrl, file, {})
    return found.matchedKey
  }
}

const results = []
for (const order of JSON.parse(await readFile(process.argv[2]))) {
  try {
    results.push({ value: await orders[order.order](order) })
  } catch (error) {
    results.push({ error: error.message })
  }
}
await writeFile(process.argv[3], JSON.stringify(results))
