-- One commit. Nothing is written before everything has been checked.
--
-- KEYS: the shard's birth record, the hash that remembers this commit, then whatever the operations
-- number.
-- ARGV: generation, this commit's field in the hash, deadline (microseconds), remembered until
-- (milliseconds), `1` when this is not the first sending, number of guards, number of writes, then
-- the operations.
local at = 7
local function take()
  at = at + 1
  return ARGV[at]
end
local function take_key()
  return KEYS[tonumber(take())]
end
local wrong
local function need(key, wanted)
  local found = redis.call('TYPE', key).ok
  if found ~= 'none' and found ~= wanted then
    wrong = wrong or ('a ' .. found .. ' where a ' .. wanted .. ' belongs')
  end
end

if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return {'lost'}
end
need(KEYS[2], 'hash')
if wrong then
  return {'wrong', wrong}
end
local before = redis.call('HGET', KEYS[2], ARGV[2])
if before then
  -- Written again, so that a WAIT behind this call waits for the first writing as well.
  redis.call('HSET', KEYS[2], ARGV[2], before)
  return {string.sub(before, 1, 1), string.sub(before, 2)}
end
local time = redis.call('TIME')
if tonumber(time[1]) * 1000000 + tonumber(time[2]) > tonumber(ARGV[3]) then
  return {'late'}
end
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

-- What lies in a hash together expires together, with the last of it.
local function keep(key, till)
  local left = redis.call('PTTL', key)
  if left < 0 or left < till - now then
    redis.call('PEXPIREAT', key, string.format('%.0f', till))
  end
end
local function remember(what)
  redis.call('HSET', KEYS[2], ARGV[2], what)
  keep(KEYS[2], tonumber(ARGV[4]))
end
-- A note begins with the moment up to which it is true.
local function is_over(note)
  local till = 0
  for place = 1, 6 do
    till = till * 256 + (string.byte(note, place) or 0)
  end
  return till <= now
end

local function clear(key, notes)
  for place = 1, #notes, 2 do
    if is_over(notes[place + 1]) then
      redis.call('HDEL', key, notes[place])
    end
  end
end

-- What a server adds to without an error, which would come in the middle of the writes.
local function is_whole(text)
  return #text <= 17 and string.match(text, '^%-?%d+$') ~= nil
end

-- A log's ends: link of the head, link of the base, then both sequence numbers as text.
local ORIGIN = string.rep('\0', 40) .. '0 0'
local ends = {}
local function number(n)
  return string.format('%.0f', n)
end
local function read_ends(log, key)
  if ends[key] then
    return ends[key]
  end
  local bytes = redis.call('GET', key) or ORIGIN
  local head, base = string.match(string.sub(bytes, 41), '^(%d+) (%d+)$')
  if not head then
    wrong = wrong or 'a log without its ends'
    return nil
  end
  local found = {
    head = tonumber(head), link = string.sub(bytes, 1, 20),
    base = tonumber(base), base_link = string.sub(bytes, 21, 40)
  }
  local last = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
  if last and last[1] ~= number(found.head) .. '-0' then
    wrong = wrong or 'a log whose last entry is not its head'
  elseif not last and found.head ~= found.base then
    wrong = wrong or 'a log that lost its entries'
  end
  return found
end
local function not_past(marker, position)
  if marker == '' then
    return true
  end
  if #marker ~= 24 then
    wrong = wrong or 'a marker that is no number'
    return false
  end
  -- By hand: Lua's numbers end at 2^53, and its string order is the locale's.
  for place = 1, 8 do
    local ours, asked = string.byte(marker, 16 + place), string.byte(position, place)
    if ours ~= asked then
      return ours < asked
    end
  end
  return true
end

local guards, writes = tonumber(ARGV[6]), tonumber(ARGV[7])
for place = 0, guards - 1 do
  local kind, key = take(), take_key()
  local holds
  if kind == 'absent' then
    need(key, 'string')
    holds = redis.call('EXISTS', key) == 0
  elseif kind == 'unchanged' then
    need(key, 'string')
    local version = take()
    holds = not wrong and redis.call('GETRANGE', key, 0, 15) == version
  elseif kind == 'fewer' then
    need(key, 'zset')
    local above, than = take(), tonumber(take())
    holds = not wrong and redis.call('ZCOUNT', key, above, '+inf') < than
  elseif kind == 'unnoted' then
    need(key, 'hash')
    local field = take()
    local note = not wrong and redis.call('HGET', key, field)
    holds = not note or is_over(note)
  elseif kind == 'below' then
    need(key, 'hash')
    local above, than = tonumber(take()), tonumber(take())
    local sum, slots = 0, wrong and {} or redis.call('HGETALL', key)
    for place = 1, #slots, 2 do
      if not is_whole(slots[place]) or not is_whole(slots[place + 1]) then
        wrong = 'a count that is no number'
      elseif tonumber(slots[place]) > above then
        sum = sum + tonumber(slots[place + 1])
      end
    end
    holds = sum < than
  elseif kind == 'notpast' then
    need(key, 'string')
    local position = take()
    holds = not wrong and not_past(redis.call('GETRANGE', key, 0, 23), position)
  else
    need(key, 'string')
    local bytes = not wrong and redis.call('GET', key) or ORIGIN
    local sequence, link = take(), take()
    holds = string.sub(bytes, 1, 20) == link
      and string.match(string.sub(bytes, 41), '^%d+') == sequence
  end
  if wrong then
    return {'wrong', wrong}
  end
  if not holds then
    if ARGV[5] == '1' then
      -- An earlier sending may still be on its way: it must not be applied after this answer.
      remember('C' .. place)
    end
    return {'C', tostring(place)}
  end
end

local todo = {}
for place = 1, writes do
  local kind, key = take(), take_key()
  local one = {kind, key}
  if kind == 'put' then
    need(key, 'string')
    one[3], one[4] = take(), take()
  elseif kind == 'delete' then
    need(key, 'string')
  elseif kind == 'note' then
    need(key, 'hash')
    one[3], one[4], one[5] = take(), take(), tonumber(take())
  elseif kind == 'share' or kind == 'unshare' then
    one[3], one[4] = take_key(), take()
    need(key, 'string')
    need(one[3], 'string')
    if not wrong and not is_whole(redis.call('GET', one[3]) or '0') then
      wrong = 'a number of sharers that is none'
    end
  elseif kind == 'count' then
    need(key, 'hash')
    one[3], one[4], one[5] = take(), take(), tonumber(take())
    if not wrong and not is_whole(redis.call('HGET', key, one[3]) or '0') then
      wrong = 'a count that is no number'
    end
  elseif kind == 'rank' then
    need(key, 'zset')
    one[3], one[4] = take(), take()
  elseif kind == 'unrank' then
    need(key, 'zset')
    one[3] = take()
  else
    one[3], one[4] = take_key(), take()
    need(key, 'stream')
    need(one[3], 'string')
    if not wrong then
      ends[one[3]] = read_ends(key, one[3])
    end
  end
  if wrong then
    return {'wrong', wrong}
  end
  todo[place] = one
end

local function raw(hex)
  return (string.gsub(hex, '..', function(pair)
    return string.char(tonumber(pair, 16))
  end))
end
local appended = {}
for _, one in ipairs(todo) do
  local kind, key = one[1], one[2]
  if kind == 'put' then
    if one[4] == '' then
      redis.call('SET', key, one[3])
    else
      redis.call('SET', key, one[3], 'PXAT', one[4])
    end
  elseif kind == 'delete' then
    redis.call('DEL', key)
  elseif kind == 'note' then
    if one[5] > now then
      redis.call('HSET', key, one[3], one[4])
      keep(key, one[5])
      -- Now and then what is over is cleared away; the key itself goes with the last of it. However many
      -- there are, one commit looks at some 256 of them: others each time, as the note's own name says.
      local size = redis.call('HLEN', key)
      if size % 16 == 0 then
        local from = 0
        for place = 1, 4 do
          from = from * 256 + (string.byte(one[3], place) or 0)
        end
        local seen = redis.call('HSCAN', key, number(from), 'COUNT', 256)
        clear(key, seen[2])
        if seen[1] == '0' and #seen[2] < 2 * size then
          clear(key, redis.call('HSCAN', key, '0', 'COUNT', 256)[2])
        end
      end
    end
  elseif kind == 'share' then
    local there = redis.call('GET', key)
    if not there then
      redis.call('SET', key, one[4])
      redis.call('SET', one[3], '0')
    elseif string.sub(there, 17) ~= string.sub(one[4], 17) then
      -- Its name follows from what it says: with anything else there, nobody could read what names it.
      redis.call('SET', key, one[4])
    end
    -- Never fewer than none: a debt would let it go while somebody names it.
    if redis.call('INCR', one[3]) < 1 then
      redis.call('SET', one[3], '1')
    end
    redis.call('PERSIST', key)
    redis.call('PERSIST', one[3])
  elseif kind == 'unshare' then
    if redis.call('EXISTS', key, one[3]) == 2 and redis.call('DECR', one[3]) <= 0 then
      redis.call('SET', one[3], '0')
      redis.call('PEXPIREAT', key, one[4])
      redis.call('PEXPIREAT', one[3], one[4])
    end
  elseif kind == 'count' then
    if redis.call('HINCRBY', key, one[3], one[4]) <= 0 then
      redis.call('HDEL', key, one[3])
    end
    -- An hour longer than the slot lasts: it is another clock that asks.
    if redis.call('EXISTS', key) == 1 then
      keep(key, math.max(tonumber(one[3]), now) + 3600000)
    end
    local slots = redis.call('HKEYS', key)
    -- Never by a clock that is ahead of this one: what counts still would be forgotten.
    local over = math.min(one[5], now)
    for _, slot in ipairs(slots) do
      if (tonumber(slot) or 0) <= over then
        redis.call('HDEL', key, slot)
      end
    end
  elseif kind == 'rank' then
    redis.call('ZADD', key, one[4], one[3])
  elseif kind == 'unrank' then
    redis.call('ZREM', key, one[3])
  elseif kind == 'append' then
    local log = ends[one[3]]
    log.head = log.head + 1
    log.link = raw(redis.sha1hex(log.link .. one[4]))
    redis.call('XADD', key, number(log.head) .. '-0', 'v', one[4], 'l', log.link)
    appended[#appended + 1] = raw(string.format('%016x', log.head)) .. log.link
  else
    local log = ends[one[3]]
    local through = math.min(tonumber(one[4]), log.head)
    if through > log.base then
      local id = number(through) .. '-0'
      local last = redis.call('XRANGE', key, id, id)[1]
      if last then
        log.base, log.base_link = through, last[2][4]
        redis.call('XTRIM', key, 'MINID', number(through + 1) .. '-0')
      end
    end
  end
end
for key, log in pairs(ends) do
  redis.call('SET', key, log.link .. log.base_link .. number(log.head) .. ' ' .. number(log.base))
end
local result = table.concat(appended)
remember('A' .. result)
return {'A', result}
