// What an adapter file holds in place of the base's own rows: copies of embedding, head and norms, trained tokens.
#pragma once

#include "core/adapter/fold.h"
#include "core/adapter/peft_folder.h"

#include <vector>

namespace spartan {

// Plans the tables and norms of an adapter and reads them into its blob.
class TableFolder {
public:
    TableFolder(const PeftFolder& folder, const Model& model, Progress& progress)
        : folder_(folder), model_(model), progress_(progress) {}

    // Checks shapes and ids against the base, and drops copies that equal it. `adapter` gets tables and norms without
    // their places, and a warning for what it should be said.
    Result<void> plan(Adapter& adapter);

    // Gives them their places behind `end` in the blob; returns its new end.
    int64_t place(Adapter& adapter, int64_t end);

    // Reads module `index` of the folder, if it holds any; different modules from different threads.
    Result<void> fold(size_t index, Adapter& adapter) const;

private:
    Result<void> plan_copy(const PeftModule& module, Adapter& adapter);
    Result<void> plan_norm(const PeftModule& module, Adapter& adapter);
    Result<void> plan_tokens(const PeftModule& module, TablePart& table);
    Result<bool> equals_base(const SafetensorsEntry& entry, bool is_head) const;
    const PeftModule* find_table(ModuleName::Kind kind) const;
    bool is_tied() const;
    Result<bool> check_tied_copy(const PeftModule& head) const;
    Result<void> check_tied_linear(Adapter& adapter) const;
    Result<void> check_tied_tokens() const;
    template <class T>
    Result<void> fold_rows(const SafetensorsEntry& entry, const std::vector<int64_t>& order, std::byte* blob,
                           int64_t offset) const;
    bool is_listed(const PeftModule& module) const;
    TablePart& table_of(Adapter& adapter, bool is_head) const;
    int64_t packed_bytes(int64_t rows) const;

    const PeftFolder& folder_;
    const Model& model_;
    Progress& progress_;
    std::vector<size_t> copies_;  // modules whose copy differs from the base's
    bool head_follows_ = false;   // a tied head takes the embedding's copy or trained tokens
};

}  // namespace spartan
