#include "core/adapter/tables.h"

#include "core/adapter/base_facts.h"
#include "core/base/text.h"
#include "core/model/float_rows.h"
#include "kernels/rounding.h"

#include <algorithm>
#include <cstring>
#include <numeric>

namespace spartan {
namespace {

Error cancelled() { return {"", "", "", "", true}; }

bool is_head(const PeftModule& module) { return module.where.kind == ModuleName::Kind::head; }
bool is_norm(const PeftModule& module) { return module.where.kind == ModuleName::Kind::norm; }

// The order that makes ids rise.
std::vector<int64_t> rising(const std::vector<int64_t>& ids) {
    std::vector<int64_t> order(ids.size());
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return ids[size_t(a)] < ids[size_t(b)]; });
    return order;
}

}  // namespace

bool TableFolder::is_listed(const PeftModule& module) const {
    const std::vector<std::string>& saved = folder_.config.saved;
    return std::any_of(saved.begin(), saved.end(), [&](const std::string& s) { return module.name.ends_with(s); });
}

TablePart& TableFolder::table_of(Adapter& adapter, bool head) const {
    std::optional<TablePart>& table = head ? adapter.head : adapter.embedding;
    if (!table) {
        table.emplace();
        table->part.in = model_.config().hidden_size;
        table->part.out = head ? model_.config().vocab_size : model_.config().hidden_size;
    }
    return *table;
}

int64_t TableFolder::packed_bytes(int64_t rows) const {
    const int64_t hidden = model_.config().hidden_size;
    return with_type(model_.dtype, [&]<class T>(T) { return PackedMatrix<T>::bytes_of(rows, hidden); });
}

const PeftModule* TableFolder::find_table(ModuleName::Kind kind) const {
    const auto it = std::find_if(folder_.modules.begin(), folder_.modules.end(),
                                 [&](const PeftModule& m) { return m.where.kind == kind; });
    return it == folder_.modules.end() ? nullptr : &*it;
}

bool TableFolder::is_tied() const { return folder_.config.ties_weights && model_.config().tied_embeddings; }

Result<void> TableFolder::plan(Adapter& adapter) {
    const ModelConfig& base = model_.config();
    bool own_head = false, shared_embedding = false;
    for (const PeftModule& module : folder_.modules) {
        if (is_norm(module)) TRY_VOID(plan_norm(module, adapter));
        if (is_norm(module) || module.where.kind < ModuleName::Kind::embedding) continue;
        const size_t before = copies_.size();
        TRY_ASSIGN(same_copy, check_tied_copy(module));
        if (module.at(TensorRole::copy) && !same_copy) TRY_VOID(plan_copy(module, adapter));
        if (module.at(TensorRole::token_rows)) TRY_VOID(plan_tokens(module, table_of(adapter, is_head(module))));
        const bool has_copy = copies_.size() > before, has_tokens = module.at(TensorRole::token_rows);
        own_head |= is_head(module) && (has_copy || has_tokens);
        // PEFT ties trained tokens to a tied head, and a copy that modules_to_save does not list is the base's weight
        // itself, which both share.
        shared_embedding |= !is_head(module) && (has_tokens || (has_copy && (is_tied() || !is_listed(module))));
    }
    head_follows_ = base.tied_embeddings && shared_embedding && !own_head;
    if (head_follows_) table_of(adapter, true);
    TRY_VOID(check_tied_linear(adapter));
    return check_tied_tokens();
}

// ensure_weight_tying with modules_to_save: PEFT saves the one weight under both names. True when `module` is the head
// with such a second copy.
Result<bool> TableFolder::check_tied_copy(const PeftModule& module) const {
    const PeftModule* embedding = find_table(ModuleName::Kind::embedding);
    if (!is_tied() || !is_head(module) || !embedding) return false;
    const SafetensorsEntry *entry = module.at(TensorRole::copy), *tied = embedding->at(TensorRole::copy);
    if (!entry || !tied) return false;
    TRY_ASSIGN(values, folder_.file->read_finite(*entry));
    TRY_ASSIGN(expected, folder_.file->read_finite(*tied));
    if (entry->shape == tied->shape && values == expected) return true;
    return Error{folder_.file->path(), shorten(entry->name, 200),
                 "a copy that differs from " + shorten(tied->name, 200),
                 "the same values, as ensure_weight_tying of the config says"};
}

// ensure_weight_tying with an adapted embedding: PEFT gives a tied head LoRA of the same matrices, A and B exchanged
// and transposed, and saves both. On a base in bf16 it trains them apart all the same.
Result<void> TableFolder::check_tied_linear(Adapter& adapter) const {
    const PeftModule *embedding = find_table(ModuleName::Kind::embedding), *head = find_table(ModuleName::Kind::head);
    if (!is_tied() || !embedding || !embedding->adapts()) return {};
    if (!head || !head->adapts())
        return Error{folder_.config.file, "ensure_weight_tying", "true with an embedding's LoRA and none of lm_head",
                     "lm_head.lora_A and lora_B in the file, as PEFT saves them, or false"};
    const auto same = [&](TensorRole role, TensorRole transposed) -> Result<bool> {
        TRY_ASSIGN(values, folder_.file->read_finite(*head->at(role)));
        TRY_ASSIGN(of_embedding, folder_.file->read_finite(*embedding->at(transposed)));
        const auto rows = size_t(head->at(role)->shape[0]), cols = size_t(head->at(role)->shape[1]);
        if (embedding->at(transposed)->shape != std::vector<int64_t>{int64_t(cols), int64_t(rows)}) return false;
        for (size_t i = 0; i < rows; ++i)
            for (size_t k = 0; k < cols; ++k)
                if (!(values[i * cols + k] == of_embedding[k * rows + i])) return false;
        return true;
    };
    TRY_ASSIGN(same_a, same(TensorRole::lora_a, TensorRole::lora_embedding_b));
    TRY_ASSIGN(same_b, same(TensorRole::lora_b, TensorRole::lora_embedding_a));
    if (!same_a || !same_b)
        adapter.warnings.push_back(
            "ensure_weight_tying is set, but the LoRA of lm_head is not that of the embedding; each is used as the "
            "file "
            "has it, as PEFT does on a base in bf16");
    return {};
}

// The same ids for embed_tokens and lm_head: PEFT keeps one set of rows, for a head that is tied.
Result<void> TableFolder::check_tied_tokens() const {
    const PeftModule* head = find_table(ModuleName::Kind::head);
    const bool listed = folder_.config.tokens_of("lm_head");
    if (!listed || model_.config().tied_embeddings || (head && head->at(TensorRole::token_rows))) return {};
    return Error{folder_.config.file, "trainable_token_indices", "tokens of \"lm_head\" without rows",
                 "a trainable_tokens_delta of lm_head, whose weight " + model_.info.name + " does not tie"};
}

Result<void> TableFolder::plan_copy(const PeftModule& module, Adapter& adapter) {
    const SafetensorsEntry& entry = *module.at(TensorRole::copy);
    const ModelConfig& base = model_.config();
    const std::string field = shorten(entry.name, 200);
    const std::vector<int64_t> expected = {base.vocab_size, base.hidden_size};
    if (entry.shape != expected)
        return Error{
            folder_.file->path(), field, "shape " + shape_text(entry.shape),
            shape_text(expected) + ", as " + model_.info.name + " has; resized vocabularies are not supported"};
    TRY_ASSIGN(same, equals_base(entry, is_head(module)));
    if (same) {
        if (module.adapts()) return {};  // PEFT saves the base's rows beside an adapted table
        adapter.warnings.push_back(field + " equals the base's; it has no effect");
        return {};
    }
    if (module.at(TensorRole::magnitude))
        return Error{folder_.file->path(), field, "a copy that differs from the base's beside DoRA",
                     "the base that the adapter was trained on"};
    if (!is_listed(module)) adapter.warnings.push_back(field + " differs from the base's and replaces it, as in PEFT");
    copies_.push_back(size_t(&module - folder_.modules.data()));
    table_of(adapter, is_head(module));
    return {};
}

Result<bool> TableFolder::equals_base(const SafetensorsEntry& entry, bool head) const {
    return std::visit(
        [&](const auto& weights) -> Result<bool> {
            const auto& matrix = head ? weights.output() : weights.embedding;
            using T = typename std::remove_cvref_t<decltype(matrix)>::Value;
            const int64_t cols = matrix.cols();
            std::vector<float> mine(static_cast<size_t>(cols)), base = mine;
            for (int64_t row = 0; row < matrix.rows(); ++row) {
                if (progress_.cancelled()) return cancelled();
                TRY_VOID(folder_.file->read_floats(entry, row * cols, cols, mine.data()));
                matrix.get_row(row, base.data());
                for (size_t i = 0; i < mine.size(); ++i)
                    if (!(to_float(from_float<T>(mine[i])) == base[i])) return false;
            }
            return true;
        },
        model_.weights);
}

Result<void> TableFolder::plan_tokens(const PeftModule& module, TablePart& table) {
    const SafetensorsEntry& entry = *module.at(TensorRole::token_rows);
    const std::vector<int64_t>& ids = *folder_.config.tokens_of(module.name);
    const ModelConfig& base = model_.config();
    if (entry.shape[1] != base.hidden_size)
        return Error{folder_.file->path(), shorten(entry.name, 200), "shape " + shape_text(entry.shape),
                     "rows of " + std::to_string(base.hidden_size) + ", as " + model_.info.name + " has"};
    for (const int64_t i : rising(ids)) table.tokens.push_back(int32_t(ids[size_t(i)]));
    if (table.tokens.back() >= base.vocab_size)
        return Error{folder_.config.file, "trainable_token_indices", std::to_string(table.tokens.back()),
                     "ids below " + std::to_string(base.vocab_size) + ", the vocabulary of " + model_.info.name};
    return {};
}

Result<void> TableFolder::plan_norm(const PeftModule& module, Adapter& adapter) {
    const SafetensorsEntry* entry = module.at(TensorRole::copy);
    const ModelConfig& base = model_.config();
    const std::string field = shorten(entry->name, 200);
    if (module.where.layer >= base.num_layers)
        return Error{folder_.file->path(), field, "layer " + std::to_string(module.where.layer),
                     "a layer from 0 to " + std::to_string(base.num_layers - 1) + " of " + model_.info.name};
    const int64_t dim = norm_size(model_, module.where.norm);
    if (dim == 0)
        return Error{folder_.file->path(), field, "a norm that " + model_.info.name + " has not", "norms of the base"};
    if (entry->shape[0] != dim)
        return Error{folder_.file->path(), field, "shape " + shape_text(entry->shape), "[" + std::to_string(dim) + "]"};
    adapter.norms.push_back({module.where.norm, module.where.layer, dim, -1});
    return {};
}

int64_t TableFolder::place(Adapter& adapter, int64_t end) {
    const int64_t vocab = model_.config().vocab_size;
    for (const size_t index : copies_)
        table_of(adapter, is_head(folder_.modules[index])).copy = reserve(end, packed_bytes(vocab));
    for (std::optional<TablePart>* table : {&adapter.embedding, &adapter.head})
        if (*table && !(*table)->tokens.empty())
            (*table)->token_rows = reserve(end, packed_bytes(int64_t((*table)->tokens.size())));
    if (head_follows_) {
        adapter.head->tokens = adapter.embedding->tokens;
        adapter.head->token_rows = adapter.embedding->token_rows;
        const bool listed =
            std::any_of(copies_.begin(), copies_.end(), [&](size_t i) { return is_listed(folder_.modules[i]); });
        if (!listed || is_tied()) adapter.head->copy = adapter.embedding->copy;
    }
    for (NormPart& norm : adapter.norms) norm.weight = reserve(end, norm.dim * int64_t(sizeof(float)));
    return round_up(end, 64);
}

template <class T>
Result<void> TableFolder::fold_rows(const SafetensorsEntry& entry, const std::vector<int64_t>& order, std::byte* blob,
                                    int64_t offset) const {
    const int64_t hidden = model_.config().hidden_size, rows = entry.shape[0];
    PackedMatrix<T> packed(rows, hidden);
    std::vector<float> row(static_cast<size_t>(hidden));
    for (int64_t i = 0; i < rows; ++i) {
        if (i % 64 == 0 && progress_.cancelled()) return cancelled();
        const int64_t from = order.empty() ? i : order[size_t(i)];
        TRY_VOID(folder_.file->read_floats(entry, from * hidden, hidden, row.data()));
        if (const int64_t bad = first_not_representable(row.data(), hidden, dtype_of<T>); bad >= 0)
            return Error{
                folder_.file->path(), shorten(entry.name, 200) + "[" + std::to_string(from * hidden + bad) + "]",
                value_text(row[size_t(bad)]), std::string("a value that ") + name_of(dtype_of<T>) + " can hold"};
        packed.set_rows(i, 1, row.data());
    }
    std::memcpy(blob + offset, packed.data(), size_t(packed.bytes()));
    progress_.add(entry.bytes);
    return {};
}

Result<void> TableFolder::fold(size_t index, Adapter& adapter) const {
    const PeftModule& module = folder_.modules[index];
    std::byte* const blob = adapter.blob.data();
    if (is_norm(module)) {
        TRY_ASSIGN(values, folder_.file->read_finite(*module.at(TensorRole::copy)));
        for (float& v : values) v += norm_offset(model_.config());
        for (const NormPart& norm : adapter.norms)
            if (norm.role == module.where.norm && norm.layer == module.where.layer)
                std::memcpy(blob + norm.weight, values.data(), values.size() * sizeof(float));
        return {};
    }
    const std::optional<TablePart>& table = is_head(module) ? adapter.head : adapter.embedding;
    if (std::find(copies_.begin(), copies_.end(), index) != copies_.end()) {
        const SafetensorsEntry& entry = *module.at(TensorRole::copy);
        TRY_VOID(with_type(model_.dtype, [&]<class T>(T) { return fold_rows<T>(entry, {}, blob, table->copy); }));
    }
    if (const SafetensorsEntry* entry = module.at(TensorRole::token_rows)) {
        const std::vector<int64_t> order = rising(*folder_.config.tokens_of(module.name));
        TRY_VOID(
            with_type(model_.dtype, [&]<class T>(T) { return fold_rows<T>(*entry, order, blob, table->token_rows); }));
    }
    return {};
}

}  // namespace spartan
