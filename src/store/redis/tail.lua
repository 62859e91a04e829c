-- One look at a log, behind a heartbeat: a WAIT that follows this call proves that the server was
-- still the one that its replicas obey.
--
-- KEYS: the shard's birth record, its heartbeat, the log, the log's ends.
-- ARGV: generation, first sequence wanted, how many.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return {'lost'}
end
-- A write that a full server still accepts.
if redis.call('PEXPIRE', KEYS[2], 86400000) == 0 then
  redis.call('SET', KEYS[2], '1', 'PX', 86400000)
end
local time = redis.call('TIME')
local ends = redis.call('GET', KEYS[4]) or ''
local entries = redis.call('XRANGE', KEYS[3], ARGV[2] .. '-0', '+', 'COUNT', ARGV[3])
local flat = {'log', time[1], time[2], ends}
for _, entry in ipairs(entries) do
  flat[#flat + 1] = entry[1]
  flat[#flat + 1] = entry[2][2]
  flat[#flat + 1] = entry[2][4]
end
return flat
